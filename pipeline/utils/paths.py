"""Paths as users write them: `~`, variables and relative paths."""

import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


def expanded(text: str) -> Path:
    """Return a path with `~`, `~user`, `$NAME` and `${NAME}` expanded, as a shell does at the start of a word.

    A shell expands them neither after `key=` and `--option=` nor in a file. A path that exists as written is returned
    as written, unless it starts with `~` (write `./~` for a folder of that name).

    Raises:
        ValueError: A variable is not set; the message names it.
    """
    if os.path.lexists(text) and Path(text).parts[:1] != ("~",):
        return Path(text)
    for match in _VARIABLE.finditer(text):
        name = match[1] or match[2]
        if name not in os.environ:
            raise ValueError(f"the variable {name} is not set")
    filled = _VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], text)
    return Path(os.path.expanduser(filled))  # noqa: PTH111  (`Path` raises for an unknown user)


def cwd_hint(path: Path) -> str:
    """Return a remark on where a relative path was looked for, for error messages; "" for an absolute path."""
    return "" if path.is_absolute() else f" (looked at {Path.cwd() / path})"
