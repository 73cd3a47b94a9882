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

_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # a folder may be shared by several
_TEMPORARY_PREFIX = f".tmp-{{process}}-{_MACHINE}"  # how names begin of what is not whole yet
_TEMPORARY_NAME = re.compile(r"\.tmp-(\d{1,9})-([0-9a-f]{8})\w+(\.\w+)*")
_SURELY_DEAD_SECONDS = 24 * 3600.0
_PROCESS_START = time.time()
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well and is removed otherwise.

    The temporary name keeps the suffixes of `path` (".nii.gz" stays ".nii.gz"), so that writers which choose a
    format by suffix work.

    Raises:
        DiskFull: names the path and the free space.
        UserError: the folder cannot be written, or the file would be larger than files may be there.
    """
    make_folder(path.parent, path)
    with _temporary(path) as temporary, writing_to(path):
        yield temporary
        _sync(temporary)
        temporary.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, of its suffixes; what bears it when the block ends goes."""
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
    """Write several files of which the last one stands for all; none takes its place before each of them is whole.

    An error, or an interrupt, puts back what was there. A process that is killed while they take their places leaves
    the last one absent: never an older one beside the new others.

    Args:
        writers: By path, what writes that file to a stream; moved into place in this order.
        gone: Files that go with an earlier last one, where they are there.

    Raises:
        DiskFull, UserError: as `atomic_path`.
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
    """Move what stands at the paths `leaving` to their temporary names, then those of `coming` to their paths, or none.

    What is replaced without leaving first is so in one step.
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
    """Yield a new folder below `parent`, itself made where missing; it goes, with all it holds, when the block ends.

    Raises:
        UserError: nothing can be written there.
    """
    make_folder(parent)
    with writing_to(parent):
        folder = tempfile.TemporaryDirectory(
            dir=parent, prefix=_TEMPORARY_PREFIX.format(process=os.getpid()), ignore_cleanup_errors=True
        )
    with folder as name:
        yield Path(name)


def remove_stale(folder: Path, *, below: bool = True) -> None:
    """Remove what killed processes left half-written in a folder, and in those below it where `below`; links stay.

    These are files and folders with names as `atomic_path` and `temporary_folder` make them. Their writer is known to
    be gone where it ran on this machine and is no longer there; of another machine's, after a day.
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
    """Whether nobody writes there any more. In a container a process often has the number of the one before it."""
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
    """Turn what the system raises while the block writes to `path` (a full disk, a lost one, …) into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a library's own, about what it was given
            raise
        raise _refusal(path, error) from error


def append_whole(stream: FileIO, path: Path, content: bytes) -> None:
    """Append bytes to a file, all of them or none.

    Args:
        stream: The file, open for appending and unbuffered: a write then says how much the disk took.
        path: Its name, for the message.
        content: What to append.

    Raises:
        DiskFull, UserError: it was not appended.
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
        raise _refusal(target or folder, error) from error


def require_writable(*paths: Path) -> None:
    """Try whether files could be written, before hours of work are put into their content; nothing is left behind.

    Raises:
        UserError: a folder is in a file's place, or its folder can neither be written nor made.
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
    """Return what writes a text as UTF-8, as `write_together` wants it; for odd names see `utils.texts.encoded`."""
    return lambda stream: stream.write(encoded(text))


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically through `write(stream)`; raises like `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        write(stream)


def atomic_text(path: Path, text: str) -> None:
    """Write text as UTF-8 atomically; raises like `atomic_path`."""
    atomic_write(path, text_writer(text))


def is_folder(path: Path) -> bool:
    """Whether a folder is there; False too for names that are too long, for which `Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether a file is there; False too for names that are too long, for which `Path.is_file` raises."""
    return os.path.isfile(path)  # noqa: PTH113


def file_identity(path: Path) -> list[str | int]:
    """Return what tells a file from what it was before, in JSON's types: where it lies, its size, when it changed."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def free_space(folder: Path) -> str:
    """Return the free space of the disk that holds `folder`, or would hold it, as text."""
    existing = next(candidate for candidate in (folder, *folder.absolute().parents) if candidate.exists())
    return human_bytes(shutil.disk_usage(existing).free)


def human_bytes(count: float) -> str:
    """Return a byte count as text: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
