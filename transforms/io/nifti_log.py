"""Keeping what nibabel logs off the terminal: it names no file, and what matters of it is said as a doubt."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nibabel import imageglobals


@contextmanager
def nibabel_silent() -> Iterator[None]:
    """Drop what nibabel logs in this thread while the block runs; other threads' lines, and its handlers, stay."""
    here = threading.get_ident()

    def from_elsewhere(_: object) -> bool:
        return threading.get_ident() != here

    imageglobals.logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        imageglobals.logger.removeFilter(from_elsewhere)
