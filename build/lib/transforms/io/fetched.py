"""Detecting files whose content was not fetched yet from git-annex (DataLad) or Git LFS."""

import os
import shlex
from pathlib import Path

_MAX_POINTER_BYTES = 4096  # git-annex's limit for pointers; those of LFS are below 1024
_ANNEX_POINTER = b"/annex/objects/"
_ANNEX_LINK = f"{os.sep}annex{os.sep}objects{os.sep}"
_LFS_POINTERS = (b"version https://git-lfs", b"version https://hawser")


def not_fetched(path: str | Path) -> str | None:
    """Return a message with the command that fetches a file's content; None where it is present or unknown.

    git-annex leaves a broken link or a small pointer file in place of the content; Git LFS leaves a pointer file.
    """
    path = Path(path)
    try:
        if path.is_symlink() and not path.exists():
            is_annexed = _ANNEX_LINK in os.path.realpath(path) or _ANNEX_LINK in str(path.readlink())
            return _annex_message(path) if is_annexed else None
        if not path.is_file() or path.stat().st_size > _MAX_POINTER_BYTES:
            return None
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError:
        return None
    if start.startswith(_ANNEX_POINTER):
        return _annex_message(path)
    if start.startswith(_LFS_POINTERS):
        return f"{path}: a Git LFS pointer, its content is not fetched; run `git lfs pull`"
    return None


def _annex_message(path: Path) -> str:
    return f"{path}: its content is not fetched (git-annex keeps it); run `datalad get {shlex.quote(str(path))}`"
