"""Files that are either whole or absent: written under a temporary name, synced, then moved into place."""

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import DiskFull, UserError

_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # a folder may be shared by several
_TEMPORARY = re.compile(r"\.tmp-(\d{1,9})-([0-9a-f]{8})[0-9a-f]{8}(\.\w+)*")
_SURELY_DEAD_SECONDS = 24 * 3600.0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well and is removed otherwise.

    The temporary name keeps the suffixes of `path` (".nii.gz" stays ".nii.gz"), so that writers which choose a
    format by suffix work.

    Raises:
        DiskFull: names the path and the free space.
        UserError: the folder cannot be written, or the file would be larger than files may be there.
    """
    suffix = "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix
    temporary = path.with_name(f".tmp-{os.getpid()}-{_MACHINE}{secrets.token_hex(4)}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            left = free_space(path.parent)
            raise DiskFull(f"{path}: disk full, {left} left; free some space and run again") from error
        if error.errno == errno.EFBIG:
            raise UserError(f"{path}: larger than a file may be here; raise the limit (ulimit -f)") from error
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{path}: its name is too long for this disk; shorten it") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
        raise
    finally:
        with suppress(OSError):  # already moved into place, or never made
            temporary.unlink()


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically through `write(stream)`; raises like `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        write(stream)


def atomic_text(path: Path, text: str) -> None:
    """Write text as UTF-8 atomically; raises like `atomic_path`."""
    atomic_write(path, lambda stream: stream.write(text.encode()))


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files directly in `folder` whose writers were killed; others stay.

    A writer is known to be gone where it ran on this machine and is no longer there; of another machine's, after a
    day.
    """
    for path in folder.glob(".tmp-*"):
        made = _TEMPORARY.fullmatch(path.name)
        with suppress(OSError):  # another command was quicker
            if made and (
                time.time() - path.stat().st_mtime > _SURELY_DEAD_SECONDS
                or (made[2] == _MACHINE and not _runs(int(made[1])))
            ):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


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
