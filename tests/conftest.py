"""Keeps every test out of what demos, runs and trackings have left in the checkout."""

import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest
from shared_folder import VARIABLE

from pipeline.utils.console import log_to_console

ROOT = Path(__file__).parents[1]
FOLDERS = [str(ROOT / name) for name in ("runs", "data", "explore", "mlruns")]
DATABASE = str(ROOT / "mlflow.db")  # SQLite puts others beside it, of longer names
OWN_FILE = str(ROOT / "mlruns" / "README.md")  # the project's
WATCHED = {
    *("open", "sqlite3.connect", "os.listdir", "os.scandir", "os.mkdir", "os.rmdir", "os.remove", "os.rename"),
    *("os.link", "os.symlink", "os.truncate", "os.utime", "os.chdir"),
}
_trespasses: list[str] = []


def pytest_configure(config):
    """Make the folder that the processes of a test run share; let Ctrl-C reach what a shell put into the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if VARIABLE not in os.environ:  # else this is a process that pytest-xdist started
        os.environ[VARIABLE] = mkdtemp(prefix="shared-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True))


def in_checkout(path: object) -> bool:
    """Return whether a path leads to what tests are kept out of; an open file's number leads nowhere."""
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    absolute = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
    inside = any(absolute == folder or absolute.startswith(folder + os.sep) for folder in FOLDERS)
    return (inside or absolute.startswith(DATABASE)) and absolute != OWN_FILE


def refuse_checkout(event: str, arguments: tuple) -> None:
    """Refuse to read, list or write there: an audit hook, of this process and of those that are forked from it."""
    if event in WATCHED:
        for path in arguments[:2]:
            if in_checkout(path):
                _trespasses.append(f"{event} {os.fsdecode(path)}")
                raise RuntimeError(f"a test is at work in the checkout: {_trespasses[-1]}; give it a folder of its own")


def _entries() -> dict[str, int]:
    """Return what lies there, down to the contents of folders, and when each was changed."""
    places = [*map(Path, FOLDERS), *ROOT.glob("mlflow.db*")]
    places += [path for place in places if place.is_dir() for path in place.iterdir()]
    return {str(path): path.lstat().st_mtime_ns for path in places if path.exists()}


@pytest.fixture(scope="session", autouse=True)
def working_folder(tmp_path_factory):
    """Let tests, and the processes that they start, work in a folder where such a path as `runs/` leads nowhere."""
    before, home = _entries(), Path.cwd()
    watching = [True]
    sys.addaudithook(lambda event, arguments: watching and refuse_checkout(event, arguments))
    os.chdir(tmp_path_factory.mktemp("working_folder"))
    yield
    os.chdir(home)
    watching.clear()
    assert _entries() == before, "tests have changed what lies in the checkout"


@pytest.fixture(autouse=True)
def out_of_the_checkout():
    """Fail a test that was at work in the checkout, though what it tests may have gone on without."""
    _trespasses.clear()
    log_to_console()
    for name in ("pipeline", "transforms", "networks"):
        logging.getLogger(name).propagate = True  # to pytest's own handler, for `caplog`
    yield
    assert not _trespasses, _trespasses


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escape undecoded bytes of file names in what a test has logged: pytest-xdist cannot send them."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report
