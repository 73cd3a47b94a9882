"""Files that are either whole or absent: written under a temporary name, synced, then moved into place."""

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from pipeline.utils.errors import DiskFull, UserError
from pipeline.utils.texts import encoded

_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # several machines may share a folder
_TEMPORARY_PREFIX = f".tmp-{{process}}-{_MACHINE}"  # prefix of files and folders that are not complete yet
_TEMPORARY_NAME = re.compile(r"\.tmp-(\d{1,9})-([0-9a-f]{8})\w+(\.\w+)*")
_SURELY_DEAD_SECONDS = 24 * 3600.0
_PROCESS_START = time.time()
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block succeeds and is removed otherwise.

    The temporary name keeps the suffixes of `path` (".nii.gz" stays ".nii.gz"), so that writers which choose a
    format by suffix work.

    Raises:
        DiskFull: The disk is full; names the path and the free space.
        UserError: The folder cannot be written, or the file exceeds the size limit there.
    """
    make_folder(path.parent, path)
    with _temporary(path) as temporary, writing_to(path):
        yield temporary
        _sync(temporary)
        temporary.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffixes; a file left there is removed when the block ends."""
    suffix = "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix
    temporary = path.with_name(f"{_TEMPORARY_PREFIX.format(process=os.getpid())}{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
    finally:
        with suppress(OSError):  # already moved into place, or never made
            temporary.unlink()


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def write_together(writers: Mapping[Path, Callable[[BinaryIO], object]], obsolete: Iterable[Path] = ()) -> None:
    """Write several files that belong together; all are complete before the first is moved into place.

    The presence of the last file means that all are there. An error, or an interrupt, restores the earlier files. A
    process that is killed during the moves leaves the last file absent, never an older one beside newer others.

    Args:
        writers: Path -> function that writes that file to a stream. The files are moved into place in this order.
        obsolete: Files of an earlier set that are removed with it, where they exist.

    Raises:
        DiskFull, UserError: As `atomic_path`.
    """
    with ExitStack() as stack:
        temporaries = {path: stack.enter_context(_temporary(path)) for path in writers}
        for path, temporary in temporaries.items():
            make_folder(path.parent, path)
            with writing_to(path):
                with temporary.open("wb") as stream:
                    writers[path](stream)
                _sync(temporary)
        *others, last = temporaries
        replaced = [*([last] if others else []), *obsolete, *others]
        _swap(temporaries, {path: stack.enter_context(_temporary(path)) for path in replaced})


def _swap(new_files: Mapping[Path, Path], replaced: Mapping[Path, Path]) -> None:
    """Move the replaced files to temporary names, then the new files into place; an error undoes all moves.

    A new file whose path is not among the replaced ones overwrites the old one in a single step.

    Args:
        new_files: Final path -> temporary path of the new file.
        replaced: Path of a file to move away -> its temporary path.
    """
    try:
        for path, aside in replaced.items():
            with writing_to(path), suppress(FileNotFoundError):
                if path.is_dir() and not path.is_symlink():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                path.replace(aside)
        for path, temporary in new_files.items():
            with writing_to(path):
                temporary.replace(path)
    except BaseException:
        for path, aside in reversed(replaced.items()):
            with suppress(OSError):  # what cannot be put back either is lost
                if os.path.lexists(aside):
                    aside.replace(path)
                elif path in new_files and not new_files[path].exists():  # it is the new one, and there was none before
                    path.unlink()
        raise


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, which is made where missing; it is removed when the block ends.

    Raises:
        UserError: Nothing can be written there.
    """
    make_folder(parent)
    with writing_to(parent):
        folder = tempfile.TemporaryDirectory(
            dir=parent, prefix=_TEMPORARY_PREFIX.format(process=os.getpid()), ignore_cleanup_errors=True
        )
    with folder as name:
        yield Path(name)


def remove_stale(folder: Path, *, below: bool = True) -> None:
    """Remove temporary files and folders that killed processes left in a folder and, with `below`, in its subfolders.

    Their names are those that `atomic_path` and `temporary_folder` give. A writer counts as dead if it ran on this
    machine and no longer does, or if it ran on another machine and a day has passed.
    """
    for parent, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            path, match = Path(parent, name), _TEMPORARY_NAME.fullmatch(name)
            with suppress(OSError):  # gone meanwhile, or not ours to remove: it does no harm
                if match is None or not _is_abandoned(path, int(match[1]), match[2]):
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        folders[:] = [name for name in folders if below and not _TEMPORARY_NAME.fullmatch(name)]


def _is_abandoned(path: Path, process: int, machine: str) -> bool:
    """Whether the writing process has ended. In a container, a new process often has the number of an earlier one."""
    changed = path.stat().st_mtime
    if machine != _MACHINE:
        return time.time() - changed > _SURELY_DEAD_SECONDS
    return changed < _PROCESS_START if process == os.getpid() else not _is_running(process)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the system's errors while the block writes to `path` (a full disk, a lost one, …) into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library about its arguments
            raise
        raise _refusal(path, error) from error


def append_whole(stream: FileIO, path: Path, content: bytes) -> None:
    """Append bytes to a file, all of them or none.

    Args:
        stream: The file, open for appending and unbuffered, so that a write returns how much the disk took.
        path: The file's name, for messages.
        content: The bytes to append.

    Raises:
        DiskFull, UserError: Nothing was appended.
    """
    with writing_to(path):
        end, remaining = os.fstat(stream.fileno()).st_size, memoryview(content)
        try:
            while remaining:
                written = stream.write(remaining)
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                remaining = remaining[written:]
        except BaseException:
            if len(remaining) < len(content):
                stream.truncate(end)  # half a line would swallow the next one
            raise


def make_folder(folder: Path, target: Path | None = None) -> None:
    """Make a folder and its parents where they are missing.

    Args:
        folder: The folder.
        target: File that will be written there, for messages; None for the folder itself.

    Raises:
        UserError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal(target or folder, error) from error


def require_writable(*paths: Path) -> None:
    """Check that files can be written, before hours of work are put into their content; leaves nothing behind.

    Raises:
        UserError: A path is a folder, or the file's folder can neither be written nor made.
    """
    for path in paths:
        if is_folder(path):
            raise UserError(f"{path}: is a folder, and a file is to be written there; move it, or choose another place")
        try:
            nearest = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
            with tempfile.TemporaryFile(dir=nearest):
                pass
        except OSError as error:
            raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> UserError:
    if error.errno in _FULL:
        return DiskFull(f"{path}: disk full, {free_space(path.parent)} left; free some space and run again")
    if error.errno == errno.EFBIG:
        return UserError(f"{path}: larger than a file may be here; raise the limit (ulimit -f)")
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{path}: its name is too long for this disk; shorten it")
    return UserError(f"{path}: cannot be written ({error.strerror}); choose another folder")


def text_writer(text: str) -> Callable[[BinaryIO], object]:
    """Return a function that writes a text as UTF-8, for `write_together`; for odd names see `utils.texts.encoded`."""
    return lambda stream: stream.write(encoded(text))


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically through `write(stream)`; raises like `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        write(stream)


def atomic_text(path: Path, text: str) -> None:
    """Write text as UTF-8 atomically; raises like `atomic_path`."""
    atomic_write(path, text_writer(text))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False for names that are too long, where `Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether a path is a file; False for names that are too long, where `Path.is_file` raises."""
    return os.path.isfile(path)  # noqa: PTH113


def file_identity(path: Path) -> list[str | int]:
    """Return a file's path, size and time of last change in JSON's types: equal as long as it is unchanged."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def free_space(folder: Path) -> str:
    """Return as text the free space of the disk that holds, or would hold, `folder`."""
    existing = next(candidate for candidate in (folder, *folder.absolute().parents) if candidate.exists())
    return human_bytes(shutil.disk_usage(existing).free)


def human_bytes(count: float) -> str:
    """Return a byte count as text: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
