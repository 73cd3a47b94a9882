"""Files that are whole or absent, alone and together, and lines that are appended whole or not at all."""

import errno
import io
import os
import signal
from pathlib import Path

import pytest
from small_run import in_child

from pipeline.utils.errors import DiskFull, UserError
from pipeline.utils.files import (
    append_whole,
    atomic_path,
    atomic_text,
    atomic_write,
    human_bytes,
    make_folder,
    remove_stale,
    temporary_folder,
    text_writer,
    write_together,
)  # fmt: skip


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def raising(error):
    def write(stream):
        stream.write(b"half")
        raise error

    return write


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), OSError("a library's own")])
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        atomic_write(path, raising(error))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["data.bin"]


@pytest.mark.parametrize("name", ["volume.nii.gz", "sub-01.ses-2.nii.gz", "picture.png", "plain", "weights.tar.GZ"])
def test_the_temporary_name_keeps_what_writers_choose_a_format_by(name, tmp_path):
    with atomic_path(tmp_path / name) as temporary:
        assert temporary.parent == tmp_path and temporary.name != name
        expected = ".nii.gz" if name.endswith(".nii.gz") else ".tar.GZ" if name.endswith("GZ") else Path(name).suffix
        assert "".join(temporary.suffixes) == expected
        temporary.write_bytes(b"x")
    assert names(tmp_path) == [name]


def test_a_file_is_synced_before_it_takes_its_place(tmp_path, monkeypatch):
    path = tmp_path / "data.bin"
    calls = []
    monkeypatch.setattr(os, "fsync", lambda _: calls.append(path.exists()))
    atomic_text(path, "new")
    assert calls == [False] and path.read_text() == "new"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / "deeper" / "note.txt"
    with pytest.raises(UserError) as caught:
        atomic_text(path, "text")
    assert str(caught.value) == f"{path}: cannot be written (Not a directory); choose another folder"
    with pytest.raises(UserError, match=r"^/proc/nope: cannot be written \("):
        make_folder(Path("/proc/nope"))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "disk full, .* left; free some space and run again"),
        (errno.EDQUOT, "disk full, .* left; free some space and run again"),
        (errno.EIO, r"cannot be written \(Input/output error\); choose another folder"),
        (errno.EFBIG, r"larger than a file may be here; raise the limit \(ulimit -f\)"),
        (errno.ENAMETOOLONG, "its name is too long for this disk; shorten it"),
    ],
)
def test_whatever_the_disk_answers_is_one_line_and_the_old_file_stays(number, message, tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=f"^{path}: {message}$") as caught:
        atomic_write(path, raising(OSError(number, os.strerror(number))))
    assert isinstance(caught.value, DiskFull) == message.startswith("disk full")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["data.bin"]


def test_byte_counts_read_well():
    assert [human_bytes(count) for count in (0, 1023, 1024, 1536, 5 * 1024**2, 3 * 1024**3, 2 * 1024**4)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 GiB", "2.0 TiB",
    ]  # fmt: skip


STALE = ".tmp-0123456789abcdef"


@pytest.mark.parametrize("below", [True, False])
def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path, below):
    (tmp_path / "deep" / STALE).mkdir(parents=True)
    (tmp_path / "deep" / STALE / "0.npz").write_bytes(b"half")
    (tmp_path / f"{STALE}.png").write_bytes(b"half")
    kept = ["note.txt", ".tmp-notes", f"{STALE[1:]}.png", f"{STALE}-mine.png"]
    for name in kept:
        (tmp_path / name).write_bytes(b"mine")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{STALE}.png").write_bytes(b"not the run's")
    (tmp_path / "link").symlink_to(elsewhere)
    remove_stale(tmp_path, below=below)
    assert names(tmp_path) == sorted([*kept, "deep", "link"])
    assert names(tmp_path / "deep") == ([] if below else [STALE])
    assert len(names(elsewhere)) == 1


def test_young_files_stay_where_others_may_be_writing(tmp_path):
    with atomic_path(tmp_path / "volume.nii.gz") as temporary:
        temporary.write_bytes(b"being written")
        (tmp_path / f"{STALE}.nii.gz").write_bytes(b"half")
        os.utime(tmp_path / f"{STALE}.nii.gz", (0, 0))
        remove_stale(tmp_path, older_than_s=60.0)
        assert names(tmp_path) == [temporary.name]
        remove_stale(tmp_path)
        assert names(tmp_path) == []
        temporary.write_bytes(b"again")


def test_a_temporary_folder_goes_with_what_it_holds(tmp_path):
    with temporary_folder(tmp_path / "run") as folder:
        (folder / "a.npz").write_bytes(b"a")
        assert folder.parent == tmp_path / "run" and folder.name.startswith(".tmp-")
    assert names(tmp_path / "run") == []


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
        write_together(three(tmp_path, **{name: raising(error)}), [tmp_path / "map"])
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
