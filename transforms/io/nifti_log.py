"""Keeping nibabel's log off the terminal: it names no file, and the readers' cautions cover what matters."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nibabel import imageglobals


@contextmanager
def nibabel_silent() -> Iterator[None]:
    """Drop what nibabel logs in this thread while the block runs; other threads and the handlers are not affected."""
    thread_id = threading.get_ident()

    def is_from_other_thread(_: object) -> bool:
        return threading.get_ident() != thread_id

    imageglobals.logger.addFilter(is_from_other_thread)
    try:
        yield
    finally:
        imageglobals.logger.removeFilter(is_from_other_thread)
