"""SimpleITK on one thread, so that its results do not depend on the machine."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_simpleitk_thread() -> Iterator[None]:
    """Sum in a fixed order: the same bits whatever the number of cores.

    A filter's own setting does not reach the filters within N4 or a registration's metric; only the global one does.
    """
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
