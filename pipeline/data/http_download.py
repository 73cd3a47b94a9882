"""Fetching one large file over HTTP: resumed where it stopped, checked against its MD5 sum, whole or absent."""

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
ATTEMPTS = 5  # that bring less than a chunk of news, in a row
TIMEOUT_S = 30
SPARE_BYTES = 64 << 20  # of the disk, to be left free
TEMPORARY_REFUSALS = (408, 425, 429, 500, 502, 503, 504)


def fetch(url: str, target: Path, *, md5: str, copies: int = 1, pause_s: float = 1.0, quiet: bool = False) -> None:
    """Download `url` to `target` through `<target>.part`, from which an interrupted download goes on.

    Args:
        url: http or https.
        target: Made only of a file whose sum is right.
        md5: Hexadecimal MD5 sum of the file.
        copies: How many times the file must find room on the disk (2 where it will be unpacked beside itself).
        pause_s: Before another attempt; doubled each time while nothing new comes.
        quiet: Whether to leave out the progress bars.

    Raises:
        UserError: no connection, a server's refusal, too many interruptions, too little disk, or a wrong sum (then
            the file is removed, so that the next call starts afresh). Names the URL, the reason and the remedy.
    """
    require_web(url)
    part = target.with_name(f"{target.name}.part")
    failures, furthest, answered = 0, _size(part), False
    while True:
        try:
            _attempt(url, part, copies, quiet)
            break
        except _CutError as cut:
            answered = answered or cut.answered
            failures = 0 if _size(part) >= furthest + CHUNK_BYTES else failures + 1
            furthest = max(furthest, _size(part))
            if cut.final or failures >= ATTEMPTS or not answered:
                raise UserError(
                    f"{url}: {cut}; check the network and repeat the command (it goes on where it stopped), "
                    f"or bring the file from elsewhere and place it as {target}"
                ) from cut
            time.sleep(pause_s * 2 ** max(failures - 1, 0))
    found = md5_of(part, quiet)
    _note(part).unlink(missing_ok=True)
    if found != md5:
        part.unlink()
        raise UserError(f"{url}: came with MD5 sum {found} instead of {md5}; it is removed, repeat the command")
    part.replace(target)


def md5_of(path: Path, quiet: bool = False) -> str:
    """Return a file's MD5 sum, hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream, byte_bar(path.stat().st_size, f"checking {path.name}", quiet) as bar:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def byte_bar(total: int | None, title: str, quiet: bool, done: int = 0) -> ProgressBar:
    """Return a progress bar over bytes, with the time left."""
    return bar(total=total, initial=done, desc=title, unit="B", unit_scale=True, unit_divisor=1024, disable=quiet)


def require_web(url: str) -> None:
    """Raise UserError unless a URL is http or https and names a host."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url}: neither an http:// nor an https:// address; give another one")


# ── one attempt ─────────────────────────────────────────────────────────────────────────────────────────────


class _CutError(Exception):
    """An attempt ended without the whole file.

    Attributes:
        answered: Whether the server was reached.
        final: Whether another attempt would end alike.
    """

    def __init__(self, reason: object, *, answered: bool = True, final: bool = False):
        super().__init__(" ".join(str(reason).split()))
        self.answered, self.final = answered, final


class _WebRedirects(request.HTTPRedirectHandler):
    """Follows redirects, but to http and https only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise _CutError(f"redirects to {newurl}, which is no web address", final=True)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _attempt(url: str, part: Path, copies: int, quiet: bool) -> None:
    """Ask for what is missing of `part` and append it; raises _CutError where that does not complete it."""
    response = _open(url, part)
    if response is None:
        return
    with closing(response):
        resumed = response.status == 206
        size = _size_announced(response, part)
        if not resumed:
            atomic_text(_note(part), json.dumps({"size": size, "validator": _validator(response)}))
        if size is not None:
            _require_room(part, size, copies)
        done = _size(part) if resumed else 0
        try:
            with part.open("ab" if resumed else "wb") as stream, byte_bar(size, part.stem, quiet, done) as bar:
                while chunk := _read(response):
                    stream.write(chunk)
                    bar.update(len(chunk))
        except OSError as error:
            reason = f"disk full, {free_space(part.parent)} left" if error.errno == errno.ENOSPC else error.strerror
            raise UserError(
                f"{part}: cannot be written ({reason}); free some space or choose another folder"
            ) from error
    if size is not None and _size(part) != size:
        raise _CutError(f"the connection was cut after {human_bytes(_size(part))} of {human_bytes(size)}")


def _open(url: str, part: Path) -> HTTPResponse | None:
    """Return the answer to a request for what is missing of `part`, None where nothing is."""
    have = _size(part)
    if have and have == _noted(part).get("size"):
        return None
    headers = {"User-Agent": "contrast-translation downloader", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator := _noted(part).get("validator"):
            headers["If-Range"] = str(validator)  # the server sends the whole file where it has changed
    opener = request.OpenerDirector()  # not `urlopen`, which knows file: and ftp: too
    for handler in (request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPDefaultErrorHandler,
                    request.HTTPErrorProcessor, _WebRedirects):  # fmt: skip
        opener.add_handler(handler())
    try:
        return opener.open(request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        with closing(error):
            if error.code != 416:
                reason = f"the server answers {error.code} {error.reason}"
                raise _CutError(reason, final=error.code not in TEMPORARY_REFUSALS) from error
            if have and _content_range(error.headers.get("Content-Range"))[1] == have:
                return None
        _forget(part)
        raise _CutError("the server does not have the part that is missing") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _CutError(f"cannot be reached ({getattr(error, 'reason', error)})", answered=False) from error


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, HTTPException) as error:
        raise _CutError(f"the connection was cut ({error})") from error


def _size_announced(response: HTTPResponse, part: Path) -> int | None:
    """Return the whole file's size, None where the server does not tell; raise where it does not fit `part`."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    if response.status != 206:
        raise _CutError(f"the server answers {response.status} {response.reason}", final=True)
    start, size = _content_range(response.headers.get("Content-Range"))
    if start != _size(part) or _noted(part).get("size") not in (None, size):
        _forget(part)
        raise _CutError("the server's file has changed")
    return size


def _content_range(header: str | None) -> tuple[int | None, int | None]:
    """Return start and whole size of a Content-Range header: "bytes 5-9/10" -> (5, 10), "bytes */10" -> (None, 10)."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", (header or "").strip())
    start, size = found.groups() if found else (None, None)
    return (int(start) if start else None), (int(size) if size and size != "*" else None)


def _require_room(part: Path, size: int, copies: int) -> None:
    needed = copies * size - _size(part) + SPARE_BYTES
    if shutil.disk_usage(part.parent).free < needed:
        raise UserError(
            f"{part.parent}: {human_bytes(needed)} of free disk needed, {free_space(part.parent)} left; "
            "free some space or choose another folder"
        )


# ── what is known of a part ─────────────────────────────────────────────────────────────────────────────────


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _noted(part: Path) -> dict[str, object]:
    """Return the size and the validator that the server gave with the first bytes of `part`; {} where unknown."""
    try:
        noted = json.loads(_note(part).read_text())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _validator(response: HTTPResponse) -> str | None:
    """Return what identifies this version of the file in an If-Range header, where the server gives it."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
