"""What arguments of a command line may be, for `argparse`'s `type`."""

from argparse import ArgumentTypeError
from pathlib import Path


def count(text: str) -> int:
    """Return a whole number from 1.

    Raises:
        ArgumentTypeError: the text is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def given_path(text: str) -> Path:
    """Return a path.

    Raises:
        ArgumentTypeError: the text is empty, as of a shell variable that is not set; `Path` would take it for ".".
    """
    if not text.strip():
        raise ArgumentTypeError("an empty path; is a variable of the shell not set? The folder you are in is .")
    return Path(text)
