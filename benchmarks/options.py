"""What benchmarks' options may be, for `argparse`'s `type`: what cannot be measured is told before anything is."""

from argparse import ArgumentTypeError
from math import inf

from pipeline.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")


def duration(text: str) -> float:
    """Return seconds, more than none."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < inf:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def device(text: str) -> str:
    """Return the name of a device that is there."""
    if text not in DEVICES:
        raise ArgumentTypeError(f"{text!r} is not one of {', '.join(DEVICES)}")
    if text != "cpu":
        from pipeline.hardware import choose_device  # torch, which takes two seconds

        try:
            choose_device(text)
        except UserError as error:
            raise ArgumentTypeError(str(error)) from None
    return text
