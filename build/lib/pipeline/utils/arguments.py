"""Types of command-line arguments, for `argparse`'s `type`."""

from argparse import ArgumentTypeError
from pathlib import Path

from pipeline.utils.paths import expanded


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
    if ":/" in text or not set("~$") & set(text):
        return text
    return str(path_argument(text))
