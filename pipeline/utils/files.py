"""Files that are either whole or absent: written under a temporary name, synced, then moved into place."""

import codecs
import csv
import errno
import io
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from math import isfinite, isnan
from pathlib import Path
from typing import IO, Any, BinaryIO

from pipeline.utils.errors import DiskFull, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # there no file is locked

LEFTOVER_AGE_S = 3600.0  # a younger temporary file may be another process's, at work in the same folder
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # from a file system that has none
_TEMPORARY_NAME = re.compile(r"\.tmp-[0-9a-f]{16}(\.\w+)*")


def _temporary_path(path: Path) -> Path:
    """Return a new temporary path beside `path`, with its suffixes, by which writers choose a format."""
    suffix = "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix
    return path.with_name(f".tmp-{secrets.token_hex(8)}{suffix}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block succeeds and is removed otherwise.

    The temporary name keeps the suffixes of `path` (".nii.gz" stays ".nii.gz").

    Raises:
        DiskFull: The disk is full; names the path and the free space.
        UserError: The folder cannot be written, or the file exceeds the size limit there.
    """
    make_folder(path.parent, path)
    temporary = _temporary_path(path)
    try:
        with writing_to(path):
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # already moved into place, or never made
            temporary.unlink()


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically through `write(stream)`; raises like `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        write(stream)


def atomic_text(path: Path, text: str) -> None:
    """Write text as UTF-8 atomically; raises like `atomic_path`."""
    atomic_write(path, text_writer(text))


def text_writer(text: str) -> Callable[[BinaryIO], object]:
    """Return a function that writes a text as UTF-8, for `write_together`; for odd names see `printable`."""
    return lambda stream: stream.write(printable(text).encode())


def write_together(writers: Mapping[Path, Callable[[BinaryIO], object]], obsolete: Iterable[Path] = ()) -> None:
    """Write several files that belong together; all are complete before the first is moved into place.

    The presence of the last file means that all are there. An error or an interrupt while they are written leaves the
    earlier files as they were; one while they are moved into place leaves an earlier last file, or its successor.

    `writers` write each file to a stream; the files are moved into place in this order, and `obsolete` ones of an
    earlier set removed with it. Raises like `atomic_path`.
    """
    with ExitStack() as moves:
        for path, write in reversed([*writers.items()]):  # a stack ends its contexts in reverse order
            temporary = moves.enter_context(atomic_path(path))
            with writing_to(path), temporary.open("wb") as stream:
                write(stream)
                os.fsync(stream.fileno())  # a disk may turn out full here
        for path in obsolete:
            with writing_to(path):
                path.unlink(missing_ok=True)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, which is made where missing; it is removed when the block ends."""
    folder = _temporary_path(parent / "folder")
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(folder: Path, *, below: bool = True, older_than_s: float = 0.0) -> None:
    """Remove temporary files and folders that killed processes left in a folder.

    Args:
        below: Whether to search its subfolders too; links are not followed.
        older_than_s: Age of the youngest ones to remove, in seconds, for folders in which other processes may write.
    """
    for path in list((folder.rglob if below else folder.glob)(".tmp-*")):
        with suppress(OSError):  # gone meanwhile, or not ours to remove: it does no harm
            if _TEMPORARY_NAME.fullmatch(path.name) and time.time() - path.lstat().st_mtime >= older_than_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the system's errors while the block writes to `path` (a full disk, a lost one, …) into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library about its arguments
            raise
        raise _refusal(path, error) from error


def lock_alone(lock: Callable[[IO[Any], int], None], stream: IO[Any], path: Path, busy: str) -> bool:
    """Lock the open file at `path` against other processes; return whether its disk has file locks.

    `lock` is one of `fcntl`'s functions: a `lockf` is lost when any stream of the file is closed, a `flock` is
    inherited by forked processes. Raises `UserError`: `busy` where another process holds it, or the system's reason.
    """
    with writing_to(path):
        try:
            lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(busy) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
    return True


def append_whole(stream: io.FileIO, path: Path, content: bytes) -> None:
    """Append bytes to the file at `path`, all of them or none; raises like `atomic_path`.

    `stream` is open for appending and unbuffered, so that a write returns what the disk took.
    """
    with writing_to(path):
        end, remaining = os.fstat(stream.fileno()).st_size, content
        try:
            while remaining:
                count = stream.write(remaining)
                if not count:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                remaining = remaining[count:]
        except BaseException:
            stream.truncate(end)  # half a line would swallow the next one
            raise


def make_folder(folder: Path, target: Path | None = None) -> None:
    """Make a folder and its parents where they are missing; `UserError` names `target`, a file to be written there."""
    with writing_to(target or folder):
        folder.mkdir(parents=True, exist_ok=True)


def require_writable(*paths: Path) -> None:
    """Check that files can be written, before hours of work are put into their content; leaves nothing behind.

    Raises:
        UserError: A path is a folder, or the file's folder can neither be written nor made.
    """
    for path in paths:
        if is_folder(path):
            raise UserError(f"{path}: is a folder, and a file is to be written there; move it, or choose another place")
        with writing_to(path):
            folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
            with tempfile.TemporaryFile(dir=folder):
                pass


def _refusal(path: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{path}: disk full, {free_space(path.parent)} left; free some space and run again")
    if error.errno == errno.EFBIG:
        return UserError(f"{path}: larger than a file may be here; raise the limit (ulimit -f)")
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{path}: its name is too long for this disk; shorten it")
    return UserError(f"{path}: cannot be written ({error.strerror}); choose another folder")


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
    return human_bytes(shutil.disk_usage(nearest_folder(folder)).free)


def nearest_folder(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    return next(parent for parent in (folder, *folder.absolute().parents) if is_folder(parent))


def human_bytes(count: float) -> str:
    """Return a byte count as text: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def decoded(content: bytes, name: str, expected_kind: str = "a text file") -> str:
    """Return a file's content as text: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        UserError: The file `name` has another encoding (names the line and the first offending byte), or is no text.
    """
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        if is_utf16 or b"\0" in content:
            raise UserError(f"{name}: not a text file; give the path of {expected_kind}") from None
        line, byte = content.count(b"\n", 0, error.start) + 1, f"byte 0x{content[error.start]:02x}"
        raise UserError(
            f"{name}, line {line}: {byte} is not UTF-8 (Latin-1, perhaps); save the file as UTF-8"
        ) from None


def printable(text: str) -> str:
    r"""Return a text with undecoded bytes escaped: "caf\udce9" for a file name of the bytes "caf\xe9".

    Python represents bytes of names that are not UTF-8 so. JSON and quoted YAML with these escapes read as that name.
    """
    return text.encode("utf-8", errors="backslashreplace").decode()


def json_number(value: float) -> float | str | None:
    """Return a number in JSON's types: NaN, which JSON lacks, as null, and infinity as text."""
    return value if isfinite(value) else None if isnan(value) else str(float(value))


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table in JSON's types; see `json_number`."""
    return {name: json_number(value) if isinstance(value, float) else value for name, value in row.items()}


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same columns as CSV, with a header."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
