"""Files that are replaced together, or not at all, and lines that are appended whole, or not at all."""

import errno
import io
import os
import signal
from pathlib import Path

import pytest
from small_run import in_child

from pipeline.utils.errors import DiskFull, UserError
from pipeline.utils.files import append_whole, remove_stale, text_writer, write_together


def failing(error):
    def write(stream):
        stream.write(b"half")
        raise error

    return write


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def old(tmp_path):
    """A sidecar, a map and a volume of an earlier command, by name."""
    for name in ("side", "map", "volume"):
        (tmp_path / name).write_text(f"old {name}")
    return contents(tmp_path)


def three(folder, **writers):
    return {folder / name: writers.get(name, text_writer(f"new {name}")) for name in ("side", "map", "volume")}


def test_files_are_written_together_and_what_is_outdated_goes(tmp_path, old):
    (tmp_path / "stale").write_text("x")
    write_together(three(tmp_path), [tmp_path / "stale", tmp_path / "never there"])
    assert contents(tmp_path) == {name: f"new {name}" for name in old}
    write_together({tmp_path / "deep" / "volume": text_writer("alone")}, [tmp_path / "map"])
    assert contents(tmp_path / "deep") == {"volume": "alone"} and not (tmp_path / "map").exists()


@pytest.mark.parametrize("name", ["side", "map", "volume"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ZeroDivisionError(), KeyboardInterrupt()])
def test_if_one_cannot_be_written_all_stay_as_they_were(tmp_path, old, name, error):
    with pytest.raises((DiskFull, ZeroDivisionError, KeyboardInterrupt)) as caught:
        write_together(three(tmp_path, **{name: failing(error)}), [tmp_path / "map"])
    assert contents(tmp_path) == old
    if caught.type is DiskFull:
        assert str(caught.value).startswith(f"{tmp_path / name}: disk full, ")


@pytest.mark.parametrize("at", range(1, 4))
@pytest.mark.parametrize("kind", ["kill", "error"])
def test_neither_a_kill_nor_an_error_among_the_replacements_loses_the_earlier_volume(
    tmp_path, old, at, kind, monkeypatch
):
    replace, calls = Path.replace, []

    def fail(path, target):
        calls.append(path)
        if len(calls) < at:
            return replace(path, target)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "replace", fail)
    if kind == "kill":
        in_child(lambda: write_together(three(tmp_path)))
    else:
        with pytest.raises(UserError, match="cannot be written"):
            write_together(three(tmp_path))
    remove_stale(tmp_path)
    assert contents(tmp_path) == old | {name: f"new {name}" for name in ("side", "map")[: at - 1]}


class Scarce(io.FileIO):
    """A file whose disk takes so many bytes more, then fails, or takes none and says nothing."""

    room, error = 3, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, content):
        part = bytes(content)[: self.room]
        if not part and self.error:
            raise self.error
        self.room -= len(part)
        return super().write(part)


@pytest.mark.parametrize("error", [Scarce.error, None])
def test_what_cannot_be_appended_whole_is_not_appended_and_that_is_said(tmp_path, error):
    path = tmp_path / "log"
    path.write_bytes(b"first\n")
    with Scarce(path, "a") as stream:
        stream.error = error
        with pytest.raises(DiskFull, match=r"log: disk full, .* left; free some space"):
            append_whole(stream, path, b"second\n")
        assert path.read_bytes() == b"first\n"
        stream.room = 100
        append_whole(stream, path, b"third\n")
    assert path.read_bytes() == b"first\nthird\n"
