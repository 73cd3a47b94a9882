"""Command-line arguments and paths as users write them: types for `argparse`, `~`, variables and relative paths."""

import os
import re
from argparse import ArgumentTypeError
from pathlib import Path


def count(text: str) -> int:
    """Return a positive whole number.

    Raises:
        ArgumentTypeError: The text is no such number.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def path_argument(text: str) -> Path:
    """Return a path with `~` and variables expanded, since the shell does not expand them after `--option=`.

    Raises:
        ArgumentTypeError: The text is empty (often an unset shell variable; `Path` would read it as "."), or it names
            a variable that is not set.
    """
    if not text.strip():
        raise ArgumentTypeError("an empty path; is a variable of the shell not set? The folder you are in is .")
    try:
        return expanded(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text}: {error}; set it, or write the path out") from None


def path_or_address(text: str) -> str:
    """Return an MLflow address or another word unchanged, and a path as `path_argument` does.

    Raises:
        ArgumentTypeError: As `path_argument`.
    """
    if ":/" in text or (text.strip() and not set("~$") & set(text)):
        return text
    return str(path_argument(text))


_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)", re.ASCII)


def expanded(text: str) -> Path:
    """Return a path with `~`, `~user`, `$NAME` and `${NAME}` expanded, as a shell does at the start of a word.

    A shell expands them neither after `key=` and `--option=` nor in a file. A path that exists as written is returned
    as written, unless it starts with `~` (write `./~` for a folder of that name).

    Raises:
        ValueError: A variable is not set; the message names it.
    """
    if os.path.lexists(text) and Path(text).parts[:1] != ("~",):
        return Path(text)
    for name in _VARIABLE.findall(text):
        if name not in os.environ:
            raise ValueError(f"the variable {name} is not set")
    return Path(os.path.expanduser(os.path.expandvars(text)))  # noqa: PTH111  (`Path` raises for an unknown user)


def cwd_hint(path: Path) -> str:
    """Return a remark on where a relative path was looked for, for error messages; "" for an absolute path."""
    return "" if path.is_absolute() else f" (looked at {Path.cwd() / path})"
