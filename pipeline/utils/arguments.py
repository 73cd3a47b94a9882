"""What arguments of a command line may be, for `argparse`'s `type`."""

from argparse import ArgumentTypeError
from pathlib import Path

from pipeline.utils.paths import expanded


def count(text: str) -> int:
    """Return a whole number from 1.

    Raises:
        ArgumentTypeError: the text is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def path_argument(text: str) -> Path:
    """Return a path, its `~` and variables replaced: the shell leaves them alone after `--option=`.

    Raises:
        ArgumentTypeError: the text is empty, as of a shell variable that is not set; `Path` would take it for ".". Or
            it names such a variable.
    """
    if not text.strip():
        raise ArgumentTypeError("an empty path; is a variable of the shell not set? The folder you are in is .")
    try:
        return expanded(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text}: {error}; set it, or write the path out") from None


def path_or_address(text: str) -> str:
    """Return what may be a path or something else: an address of MLflow's as it is, a path as `path_argument` reads it.

    Raises:
        ArgumentTypeError: as `path_argument`.
    """
    if ":/" in text or not set("~$") & set(text):
        return text
    return str(path_argument(text))
