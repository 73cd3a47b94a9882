"""Paths as people write them, and where a relative one leads."""

import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


def expanded(text: str) -> Path:
    """Return a path with `~`, `~user`, `$NAME` and `${NAME}` replaced, as a shell replaces them at a word's beginning.

    The shell does so neither after `key=` and `--option=` nor in a file. What is there under the name as it is written
    is meant as it is written, but for `~` and what lies below it: `./~` is a folder of that name.

    Raises:
        ValueError: a variable is not set; the message names it.
    """
    if os.path.lexists(text) and Path(text).parts[:1] != ("~",):
        return Path(text)
    for match in _VARIABLE.finditer(text):
        name = match[1] or match[2]
        if name not in os.environ:
            raise ValueError(f"the variable {name} is not set")
    filled = _VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], text)
    return Path(os.path.expanduser(filled))  # noqa: PTH111  (where nobody is called so, `Path` would raise)


def cwd_hint(path: Path) -> str:
    """Return where a relative path leads, for a message that nothing is there; "" for an absolute one."""
    return "" if path.is_absolute() else f" (looked at {Path.cwd() / path})"
