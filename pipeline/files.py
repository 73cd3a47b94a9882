"""Files that are either whole or absent: written under a temporary name, synced, then moved into place."""

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import UserError

TEMPORARY = ".tmp-"  # how names begin of what is not whole yet; the number of the process that writes it follows
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)

_TEMPORARY_NAME = re.compile(rf"{re.escape(TEMPORARY)}([0-9]+)-")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well and is removed otherwise.

    The temporary name keeps the suffixes of `path` (".nii.gz" stays ".nii.gz"), so that writers which choose a
    format by suffix work.

    Raises:
        UserError: the disk is full, or the folder cannot be written; names the path and the free space.
    """
    suffix = "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    make_folder(path.parent, path)
    try:
        with writing_to(path):
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # already moved into place, or never made
            temporary.unlink()


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder below `parent`, itself made where missing; it goes, with all it holds, when the block ends.

    Raises:
        UserError: nothing can be written there.
    """
    make_folder(parent)
    with writing_to(parent):
        made = tempfile.TemporaryDirectory(dir=parent, prefix=f"{TEMPORARY}{os.getpid()}-", ignore_cleanup_errors=True)
    with made as name:
        yield Path(name)


def remove_stale(folder: Path) -> None:
    """Remove what killed processes left half-written below a folder of ours.

    These are files and folders named ".tmp-<process>-…". What belongs to a process that is still alive on this machine
    stays, and links are not followed.
    """
    for place, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            process = _TEMPORARY_NAME.match(name)
            if process is None or _is_alive(int(process[1])):
                continue
            path = Path(place, name)
            with suppress(OSError):  # gone meanwhile, or not ours to remove: it does no harm
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        folders[:] = [name for name in folders if not _TEMPORARY_NAME.match(name)]


def _is_alive(process: int) -> bool:
    """Whether a process of this number exists here, this one excepted: it has nothing open when it cleans up."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn what a full disk or an unwritable folder raises while the block writes to `path` into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or error.errno in _UNWRITABLE:
            raise _refusal(path, error) from error
        raise


def make_folder(folder: Path, wanted: Path | None = None) -> None:
    """Make a folder, and those above it, where they are missing.

    Args:
        folder: The folder.
        wanted: What is to be written there, for the message; None for the folder itself.

    Raises:
        UserError: it cannot be made, whatever the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal(wanted or folder, error) from error


def _refusal(path: Path, error: OSError) -> UserError:
    if error.errno in _FULL:
        return UserError(f"{path}: disk full, {free_space(path.parent)} left; free some space and run again")
    return UserError(f"{path}: cannot be written ({error.strerror}); choose another folder")


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically through `write(stream)`; raises like `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        write(stream)


def atomic_text(path: Path, text: str) -> None:
    """Write text as UTF-8 atomically; raises like `atomic_path`."""
    atomic_write(path, lambda stream: stream.write(text.encode()))


def file_identity(path: Path) -> list[str | int]:
    """Return what tells a file from what it was before, in JSON's types: where it lies, its size, when it changed."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def free_space(folder: Path) -> str:
    """Return the free space of the disk that holds `folder`, or would hold it, as text."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return human_bytes(shutil.disk_usage(there).free)


def human_bytes(count: float) -> str:
    """Return a byte count as text: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
