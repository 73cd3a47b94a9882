"""What is made once in a run of the tests, for all of its processes."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

VARIABLE = "SHARED_TEST_FOLDER"  # of the environment, which processes inherit; `conftest.py` makes and removes it


def shared_folder(name: str) -> Path:
    """Return a folder that all processes of a test run may read and fill."""
    folder = Path(os.environ[VARIABLE]) / name
    folder.mkdir(exist_ok=True)
    return folder


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first process to ask for it fills; the others wait until it has."""
    folder = shared_folder(name)
    with (folder / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            make(folder)
            lock.write("made")
    return folder
