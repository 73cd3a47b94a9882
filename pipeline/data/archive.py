"""A large tar archive: downloaded over HTTP, resumed where it stopped, checked by its MD5 sum, and unpacked safely."""

import hashlib
import logging
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO, cast
from urllib.parse import urlsplit

import requests
from requests.exceptions import ChunkedEncodingError, HTTPError

from pipeline.utils.console import ProgressBar, bar
from pipeline.utils.errors import UserError, without_password
from pipeline.utils.files import (
    LEFTOVER_AGE_S,
    fcntl,
    free_space,
    human_bytes,
    lock_alone,
    make_folder,
    remove_stale,
    temporary_folder,
    writing_to,
)

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16  # what a cut connection may lose
ATTEMPTS = 5  # successive attempts with less progress each, before giving up
PROGRESS_BYTES = 1 << 20
TIMEOUT_S = 30
SPARE_BYTES = 64 << 20  # disk space that stays free
COPIES = 2  # of the file that must fit on the disk: it is unpacked beside itself


def fetch(
    url: str, target: Path, *, md5: str, by_hand: Path | None = None, pause_s: float = 1.0, quiet: bool = False
) -> None:
    """Download `url` to `target` through `<by_hand>.part`, which an interrupted download resumes from.

    The target is made only if its MD5 sum (hexadecimal) is right. `by_hand` is where the user may place the file, which
    is `target` unless given. The pause before another attempt is doubled each time while nothing new arrives.

    Raises:
        UserError: no connection, a server's refusal, too many interruptions, too little disk, or a wrong sum (then
            the file is removed, so that the next call starts afresh). The message names the URL, without a password in
            it, reason and remedy.
    """
    require_web(url)
    by_hand = by_hand or target
    partial_path = by_hand.with_name(f"{by_hand.name}.part")
    with _sole_download(partial_path):
        _download(url, partial_path, by_hand, pause_s=pause_s, quiet=quiet)
        actual_md5 = md5_of(partial_path, quiet)
        if actual_md5 != md5:
            partial_path.unlink()
            came = f"{without_password(url)}: came with MD5 sum {actual_md5} instead of {md5}"
            raise UserError(f"{came}; it is removed, repeat the command")
        partial_path.replace(target)


@contextmanager
def _sole_download(partial_path: Path) -> Iterator[None]:
    """Keep other processes from downloading to a path within the block, where its disk has file locks.

    UserError: another process does, or the path cannot be written. No empty file is left behind.
    """
    make_folder(partial_path.parent, partial_path)
    with writing_to(partial_path):
        stream = partial_path.open("ab")
    with stream:
        if fcntl is not None:
            busy = f"{partial_path}: another process is downloading it there; wait for it, and repeat the command"
            if not lock_alone(
                fcntl.flock, stream, partial_path, busy
            ):  # unlike lockf's, not lost when the file is read
                logger.warning(f"{partial_path}: this disk has no file locks: start no second download there")
        try:
            yield
        except BaseException:
            if not _size_on_disk(partial_path):
                partial_path.unlink(missing_ok=True)
            raise


def _download(url: str, partial_path: Path, by_hand: Path, *, pause_s: float, quiet: bool) -> None:
    """Download what is missing of a file, resuming after interruptions while there is progress; raises as `fetch`."""
    failures = 0
    while True:
        size_before = _size_on_disk(partial_path)
        try:
            with writing_to(partial_path):
                return _download_rest(url, partial_path, quiet)
        except requests.RequestException as error:
            progress = _size_on_disk(partial_path) - size_before
            failures = 0 if progress >= PROGRESS_BYTES else failures + 1
            if failures >= ATTEMPTS or (progress <= 0 and _is_final(error)):
                reason = without_password(f"{url}: {_reason(error, partial_path)}")
                raise UserError(
                    f"{reason}; check the network and repeat the command (it goes on where it stopped), or bring the "
                    f"file from elsewhere and place it as {by_hand}"
                ) from error
            time.sleep(pause_s * 2 ** max(failures - 1, 0))


def md5_of(path: Path, quiet: bool = False) -> str:
    """Return a file's MD5 sum, hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream, _byte_bar(path.stat().st_size, f"checking {path.name}", quiet) as progress:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            progress.update(len(chunk))
    return digest.hexdigest()


def require_web(url: str) -> None:
    """Raise UserError unless a URL is http or https and names a host."""
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # brackets that are not closed
        is_web = False
    if not is_web:
        raise UserError(f"{without_password(url)}: neither an http:// nor an https:// address; give another one")


def _download_rest(url: str, partial_path: Path, quiet: bool) -> None:
    """Request the missing bytes and append them; raises RequestException where the file is still not complete.

    A file that has changed on the server meanwhile shows in the MD5 sum.
    """
    done = _size_on_disk(partial_path)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:  # no bytes beyond those on disk
            return
        response.raise_for_status()
        done = done if response.status_code == 206 else 0
        size = done + int(response.headers.get("Content-Length", 0))
        _require_disk_space(partial_path.parent, COPIES * size - done)
        with (
            partial_path.open("ab" if done else "wb") as stream,
            _byte_bar(size, partial_path.stem, quiet, done) as progress,
        ):
            for chunk in response.iter_content(CHUNK_BYTES):
                stream.write(chunk)
                progress.update(len(chunk))


def _is_final(error: requests.RequestException) -> bool:
    """Return whether another attempt would fail alike: a refusal, a server that is not there, a wrong redirect."""
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code < 500 and error.response.status_code != 429
    return not isinstance(error, ChunkedEncodingError)


def _reason(error: requests.RequestException, partial_path: Path) -> str:
    if isinstance(error, HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    text = " ".join(str(error).split())
    if isinstance(error, ChunkedEncodingError):
        return f"the connection was cut after {human_bytes(_size_on_disk(partial_path))} ({text})"
    return f"cannot be reached ({text})"


def _require_disk_space(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size + SPARE_BYTES:
        raise UserError(
            f"{folder}: {human_bytes(size + SPARE_BYTES)} of free disk needed, {free_space(folder)} left; "
            "free some space or choose another folder"
        )


def _size_on_disk(partial_path: Path) -> int:
    return partial_path.stat().st_size if partial_path.exists() else 0


def _byte_bar(total: int, title: str, quiet: bool, done: int = 0) -> ProgressBar:
    """Return a progress bar that counts bytes and shows the time left."""
    return bar(
        total=total or None, initial=done, desc=title, unit="B", unit_scale=True, unit_divisor=1024, disable=quiet
    )


# ── unpacking ───────────────────────────────────────────────────────────────────────────────────────────────


def unpack_tar(archive: Path, folder: Path, quiet: bool = False) -> None:
    """Unpack an uncompressed tar archive into a temporary folder, then move that into place as `folder`.

    UserError: `folder` is not empty; a member would leave it, or is neither a plain file nor a folder; the archive is
    damaged; or the disk is full. No new folder is left behind.
    """
    require_empty(folder)
    remove_stale(folder.parent, below=False, older_than_s=LEFTOVER_AGE_S)
    try:
        with (
            writing_to(folder),
            temporary_folder(folder.parent) as temporary,
            tarfile.open(archive, "r:") as tar,
            _byte_bar(archive.stat().st_size, f"unpacking {archive.name}", quiet) as progress,
        ):
            for member in tar:
                _extract(tar, member, temporary / "content")
                progress.update(tar.offset - progress.n)
            (temporary / "content").replace(folder)
    except tarfile.TarError as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}); remove it and download it again") from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one member below a folder, without its owner and modes; `tarfile.TarError` if it could do harm."""
    name = PureWindowsPath(member.name)  # understands /, \ and drive letters
    if name.anchor or ".." in name.parts:
        raise tarfile.TarError(f"member {member.name!r} would lie outside the destination")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise tarfile.TarError(f"member {member.name!r} is a link or a special file")
    target = folder / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with cast(IO[bytes], tar.extractfile(member)) as source, target.open("wb") as stream:
        shutil.copyfileobj(source, stream)


def require_empty(folder: Path) -> None:
    """Raise UserError unless `folder` is absent or an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: is in the way of what is to be unpacked; move it away")
