"""Whether the content of a file is here, or kept elsewhere by git-annex (DataLad) or Git LFS."""

import os
import shlex
from pathlib import Path

_MOST_POINTER_BYTES = 4096  # git-annex takes no larger file for a pointer; those of LFS are below 1024
_ANNEX_POINTER = b"/annex/objects/"
_ANNEX_LINK = f"{os.sep}annex{os.sep}objects{os.sep}"
_LFS_POINTERS = (b"version https://git-lfs", b"version https://hawser")


def not_fetched(path: str | Path) -> str | None:
    """Return that a file's content is not here and which command fetches it; None where it is, or nothing is known.

    git-annex leaves a link to nowhere in its place, or a small file that names the content; Git LFS such a file.
    """
    path = Path(path)
    try:
        if path.is_symlink() and not path.exists():
            is_annexed = _ANNEX_LINK in os.path.realpath(path) or _ANNEX_LINK in str(path.readlink())
            return _from_annex(path) if is_annexed else None
        if not path.is_file() or path.stat().st_size > _MOST_POINTER_BYTES:
            return None
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError:
        return None
    if start.startswith(_ANNEX_POINTER):
        return _from_annex(path)
    if start.startswith(_LFS_POINTERS):
        return f"{path}: a Git LFS pointer, its content is not fetched; run `git lfs pull`"
    return None


def _from_annex(path: Path) -> str:
    return f"{path}: its content is not fetched (git-annex keeps it); run `datalad get {shlex.quote(str(path))}`"
