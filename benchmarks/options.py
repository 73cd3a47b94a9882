"""Types of the benchmarks' options for `argparse`: bad values are refused before anything is measured."""

from argparse import ArgumentTypeError
from math import inf
from pathlib import Path

from pipeline.utils.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")


def volume(text: str) -> Path:
    """Return the path of an existing file.

    Raises:
        ArgumentTypeError: the file does not exist.
    """
    if not Path(text).is_file():
        raise ArgumentTypeError(f"{text}: no such file; give the path of a NIfTI volume")
    return Path(text)


def duration(text: str) -> float:
    """Return a positive number of seconds.

    Raises:
        ArgumentTypeError: the text is not a positive number.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < inf:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def device(text: str) -> str:
    """Return the kind of an available device; for "auto" the fastest.

    Raises:
        ArgumentTypeError: the text is no kind of device, or the device is not available.
    """
    if text not in DEVICES:
        raise ArgumentTypeError(f"{text!r} is not one of {', '.join(DEVICES)}")
    if text == "cpu":
        return text
    from pipeline.utils.hardware import choose_device  # imports torch, which takes two seconds

    try:
        return choose_device(text).type
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None
