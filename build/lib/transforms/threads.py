"""Running SimpleITK on one thread, so that its results do not depend on the machine."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_simpleitk_thread() -> Iterator[None]:
    """Limit SimpleITK to one thread, so that sums have a fixed order and the same bits on any number of cores.

    A filter's own setting does not reach the filters inside N4 or a registration's metric; the global one does.
    """
    import SimpleITK as sitk

    previous_count = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(previous_count)
