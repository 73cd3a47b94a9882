"""Opening the next job's volume while the GPU translates the present one."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from threading import Thread
from typing import TYPE_CHECKING

from pipeline.inference.batch.jobs import Job

if TYPE_CHECKING:
    from pipeline.inference.multi_view import OpenedViews

UNTHREADED_SUFFIXES = (".hdr", ".img")  # reading Analyze catches warnings, which Python does for all threads or none


class Prefetcher:
    """Opens a job's volume, then the next job's in a thread, so that memory holds two volumes at most.

    A volume that could not be prefetched for want of memory is opened again when it is its turn. The thread is a
    daemon, so that the process can end without waiting for it.

    Args:
        open_job: Function that opens a job's volume.
        jobs: The jobs in the order of the calls. If one is left out, its prefetched volume is dropped.
    """

    def __init__(self, open_job: "Callable[[Job], OpenedViews]", jobs: Sequence[Job]):
        self._open_job = open_job
        self._next = {
            id(job): next_job
            for job, next_job in pairwise(jobs)
            if next_job.source.suffix.lower() not in UNTHREADED_SUFFIXES
        }
        self._opening: _Opening | None = None

    def __call__(self, job: Job) -> "OpenedViews":
        """Return a job's opened volume; errors are those of opening it."""
        opening, self._opening = self._opening, None
        try:
            opened = opening.result() if opening is not None and opening.job is job else self._open_job(job)
        except Exception:
            self._open_next(job)
            raise
        self._open_next(job)
        return opened

    def _open_next(self, job: Job) -> None:
        next_job = self._next.get(id(job))
        if next_job is not None:
            self._opening = _Opening(self._open_job, next_job)


class _Opening:
    """The opening of a job's volume in a thread of its own."""

    def __init__(self, open_job: "Callable[[Job], OpenedViews]", job: Job):
        self.job, self._open_job = job, open_job
        self._opened: OpenedViews | None = None
        self._error: BaseException | None = None
        self.thread = Thread(target=self._open, name="opening", daemon=True)
        self.thread.start()

    def result(self) -> "OpenedViews":
        """Wait for the volume and return it, or raise what was wrong with it."""
        self.thread.join()
        if self._error is None:
            return self._opened
        from transforms.io.nifti_checks import TooLargeError  # nibabel, which a door does without

        if isinstance(self._error, MemoryError) or isinstance(self._error.__cause__, TooLargeError):
            return self._open_job(self.job)
        raise self._error

    def _open(self) -> None:
        try:
            self._opened = self._open_job(self.job)
        except BaseException as error:  # raised where the volume is asked for
            self._error = error
