"""Files that are either whole or absent: written under a temporary name, synced, then moved into place."""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import UserError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well and is removed otherwise.

    The temporary name keeps the suffixes of `path` (".nii.gz" stays ".nii.gz"), so that writers which choose a
    format by suffix work.

    Raises:
        UserError: the disk is full, or the folder cannot be written; names the path and the free space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: disk full, {free_space(path.parent)} left; free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically through `write(stream)`; raises like `atomic_path`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        write(stream)


def atomic_text(path: Path, text: str) -> None:
    """Write text as UTF-8 atomically; raises like `atomic_path`."""
    atomic_write(path, lambda stream: stream.write(text.encode()))


def free_space(folder: Path) -> str:
    """Return the free space of the disk that holds `folder`, as text."""
    return human_bytes(shutil.disk_usage(folder).free)


def human_bytes(count: float) -> str:
    """Return a byte count as text: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
