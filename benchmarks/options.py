"""What benchmarks' options may be, for `argparse`'s `type`: what cannot be measured is told before anything is."""

from argparse import ArgumentTypeError
from math import inf
from pathlib import Path

from pipeline.utils.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")


def volume(text: str) -> Path:
    """Return the path of a file that is there.

    Raises:
        ArgumentTypeError: it is not.
    """
    if not Path(text).is_file():
        raise ArgumentTypeError(f"{text}: no such file; give the path of a NIfTI volume")
    return Path(text)


def duration(text: str) -> float:
    """Return seconds, more than none.

    Raises:
        ArgumentTypeError: the text is no such number.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < inf:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def device(text: str) -> str:
    """Return the kind of a device that is there: for "auto" the fastest.

    Raises:
        ArgumentTypeError: the text names none, or one that is not there.
    """
    if text not in DEVICES:
        raise ArgumentTypeError(f"{text!r} is not one of {', '.join(DEVICES)}")
    if text == "cpu":
        return text
    from pipeline.utils.hardware import choose_device  # torch, which takes two seconds

    try:
        return choose_device(text).type
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None
