"""Downloading one large file over HTTP: resumed where it stopped, and in place only with the right MD5 sum."""

import errno
import hashlib
import json
import re
import shutil
import time
from contextlib import closing
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

from pipeline.utils.console import ProgressBar, bar
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, free_space, human_bytes

CHUNK_BYTES = 1 << 20
ATTEMPTS = 5  # successive attempts with less than one new chunk each, before giving up
TIMEOUT_S = 30
SPARE_BYTES = 64 << 20  # disk space that stays free
TEMPORARY_REFUSALS = (408, 425, 429, 500, 502, 503, 504)


def fetch(url: str, target: Path, *, md5: str, copies: int = 1, pause_s: float = 1.0, quiet: bool = False) -> None:
    """Download `url` to `target` through `<target>.part`, which an interrupted download resumes from.

    Args:
        url: http or https address.
        target: Path of the finished file, made only if its MD5 sum is right.
        md5: Hexadecimal MD5 sum of the file.
        copies: Number of copies that must fit on the disk (2 where the file will be unpacked beside itself).
        pause_s: Pause before another attempt in seconds; doubled each time while nothing new arrives.
        quiet: Whether to leave out the progress bars.

    Raises:
        UserError: no connection, a server's refusal, too many interruptions, too little disk, or a wrong sum (then
            the file is removed, so that the next call starts afresh). The message names URL, reason and remedy.
    """
    require_web(url)
    partial_path = target.with_name(f"{target.name}.part")
    failures, largest_size, is_server_known = 0, _size_on_disk(partial_path), False
    # Download, resuming after interruptions while there is progress.
    while True:
        try:
            _download_rest(url, partial_path, copies, quiet)
            break
        except _IncompleteError as error:
            is_server_known = is_server_known or error.answered
            failures = 0 if _size_on_disk(partial_path) >= largest_size + CHUNK_BYTES else failures + 1
            largest_size = max(largest_size, _size_on_disk(partial_path))
            if error.final or failures >= ATTEMPTS or not is_server_known:
                raise UserError(
                    f"{url}: {error}; check the network and repeat the command (it goes on where it stopped), "
                    f"or bring the file from elsewhere and place it as {target}"
                ) from error
            time.sleep(pause_s * 2 ** max(failures - 1, 0))

    # Check the finished file, then move it into place.
    actual_md5 = md5_of(partial_path, quiet)
    _record_path(partial_path).unlink(missing_ok=True)
    if actual_md5 != md5:
        partial_path.unlink()
        raise UserError(f"{url}: came with MD5 sum {actual_md5} instead of {md5}; it is removed, repeat the command")
    partial_path.replace(target)


def md5_of(path: Path, quiet: bool = False) -> str:
    """Return a file's MD5 sum, hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream, byte_bar(path.stat().st_size, f"checking {path.name}", quiet) as bar:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def byte_bar(total: int | None, title: str, quiet: bool, done: int = 0) -> ProgressBar:
    """Return a progress bar that counts bytes and shows the time left."""
    return bar(total=total, initial=done, desc=title, unit="B", unit_scale=True, unit_divisor=1024, disable=quiet)


def require_web(url: str) -> None:
    """Raise UserError unless a URL is http or https and names a host."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url}: neither an http:// nor an https:// address; give another one")


# ── one attempt ─────────────────────────────────────────────────────────────────────────────────────────────


class _IncompleteError(Exception):
    """An attempt ended without the whole file.

    Attributes:
        answered: Whether the server was reached.
        final: Whether another attempt would fail alike.
    """

    def __init__(self, reason: object, *, answered: bool = True, final: bool = False):
        super().__init__(" ".join(str(reason).split()))
        self.answered, self.final = answered, final


class _WebRedirects(request.HTTPRedirectHandler):
    """Follow redirects, but to http and https only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise _IncompleteError(f"redirects to {newurl}, which is no web address", final=True)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download_rest(url: str, partial_path: Path, copies: int, quiet: bool) -> None:
    """Request the missing bytes and append them; raises _IncompleteError where the file is still not complete."""
    response = _open(url, partial_path)
    if response is None:
        return
    with closing(response):
        # Note the file's version, so that a later attempt resumes the same one.
        resumed = response.status == 206
        size = _announced_size(response, partial_path)
        if not resumed:
            atomic_text(_record_path(partial_path), json.dumps({"size": size, "validator": _validator(response)}))
        if size is not None:
            _require_disk_space(partial_path, size, copies)

        # Append the bytes as they arrive.
        done = _size_on_disk(partial_path) if resumed else 0
        try:
            with (
                partial_path.open("ab" if resumed else "wb") as stream,
                byte_bar(size, partial_path.stem, quiet, done) as bar,
            ):
                while chunk := _read(response):
                    stream.write(chunk)
                    bar.update(len(chunk))
        except OSError as error:
            is_disk_full = error.errno == errno.ENOSPC
            reason = f"disk full, {free_space(partial_path.parent)} left" if is_disk_full else error.strerror
            raise UserError(
                f"{partial_path}: cannot be written ({reason}); free some space or choose another folder"
            ) from error
    if size is not None and _size_on_disk(partial_path) != size:
        raise _IncompleteError(
            f"the connection was cut after {human_bytes(_size_on_disk(partial_path))} of {human_bytes(size)}"
        )


def _open(url: str, partial_path: Path) -> HTTPResponse | None:
    """Return the response to a request for the missing bytes, or None where none are missing."""
    bytes_on_disk = _size_on_disk(partial_path)
    if bytes_on_disk and bytes_on_disk == _read_record(partial_path).get("size"):
        return None
    # Request the rest, of the same version of the file.
    headers = {"User-Agent": "contrast-translation downloader", "Accept-Encoding": "identity"}
    if bytes_on_disk:
        headers["Range"] = f"bytes={bytes_on_disk}-"
        if validator := _read_record(partial_path).get("validator"):
            headers["If-Range"] = str(validator)  # if the file has changed, the server sends all of it

    # Open http and https only, and sort refusals into final and temporary ones.
    opener = request.OpenerDirector()  # not `urlopen`, which also opens file: and ftp:
    for handler in (request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPDefaultErrorHandler,
                    request.HTTPErrorProcessor, _WebRedirects):  # fmt: skip
        opener.add_handler(handler())
    try:
        return opener.open(request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        with closing(error):
            if error.code != 416:
                reason = f"the server answers {error.code} {error.reason}"
                raise _IncompleteError(reason, final=error.code not in TEMPORARY_REFUSALS) from error
            if bytes_on_disk and _content_range(error.headers.get("Content-Range"))[1] == bytes_on_disk:
                return None
        _discard(partial_path)
        raise _IncompleteError("the server does not have the part that is missing") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _IncompleteError(f"cannot be reached ({getattr(error, 'reason', error)})", answered=False) from error


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, HTTPException) as error:
        raise _IncompleteError(f"the connection was cut ({error})") from error


def _announced_size(response: HTTPResponse, partial_path: Path) -> int | None:
    """Return the whole file's size, None where unknown; raise where the bytes on disk belong to another file."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    if response.status != 206:
        raise _IncompleteError(f"the server answers {response.status} {response.reason}", final=True)
    start, size = _content_range(response.headers.get("Content-Range"))
    if start != _size_on_disk(partial_path) or _read_record(partial_path).get("size") not in (None, size):
        _discard(partial_path)
        raise _IncompleteError("the server's file has changed")
    return size


def _content_range(header: str | None) -> tuple[int | None, int | None]:
    """Return start and whole size of a Content-Range header: "bytes 5-9/10" -> (5, 10), "bytes */10" -> (None, 10)."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", (header or "").strip())
    start, size = match.groups() if match else (None, None)
    return (int(start) if start else None), (int(size) if size and size != "*" else None)


def _require_disk_space(partial_path: Path, size: int, copies: int) -> None:
    needed = copies * size - _size_on_disk(partial_path) + SPARE_BYTES
    if shutil.disk_usage(partial_path.parent).free < needed:
        raise UserError(
            f"{partial_path.parent}: {human_bytes(needed)} of free disk needed, "
            f"{free_space(partial_path.parent)} left; free some space or choose another folder"
        )


# ── the unfinished file and its record ──────────────────────────────────────────────────────────────────────


def _size_on_disk(partial_path: Path) -> int:
    return partial_path.stat().st_size if partial_path.exists() else 0


def _record_path(partial_path: Path) -> Path:
    return partial_path.with_name(f"{partial_path.name}.json")


def _read_record(partial_path: Path) -> dict[str, object]:
    """Return the size and validator that the server gave with the first bytes; {} where unknown."""
    try:
        record = json.loads(_record_path(partial_path).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _validator(response: HTTPResponse) -> str | None:
    """Return the If-Range validator of this version of the file, or None where the server gives none."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _discard(partial_path: Path) -> None:
    partial_path.unlink(missing_ok=True)
    _record_path(partial_path).unlink(missing_ok=True)
