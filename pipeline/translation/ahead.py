"""Opening the next volume of a job while the present one is on its way through a GPU."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.translation.jobs import Job

if TYPE_CHECKING:
    from pipeline.translation.views import Opened

IN_TURN = (".hdr", ".img")  # reading Analyze catches warnings, which Python does for all threads or none


class Ahead:
    """Opens a job's volume, and begins to open the next one's in a thread: one at a time, so memory holds two at most.

    What could not be opened ahead, for want of memory perhaps, is opened again when it is its turn. A context manager,
    which does not wait for what was begun in vain.

    Args:
        open_job: Opens a job's volume.
        jobs: In the order in which they will be asked for; one that is skipped costs its opening, no more.
    """

    def __init__(self, open_job: "Callable[[Job], Opened]", jobs: Sequence[Job]):
        self._open_job = open_job
        self._next = {id(job): later for job, later in pairwise(jobs) if later.source.suffix.lower() not in IN_TURN}
        self._begun: tuple[Job, Future] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="opening")

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def __call__(self, job: Job) -> "Opened":
        """Return a job's opened volume; errors are those of opening it."""
        begun, self._begun = self._begun, None
        try:
            there = begun is not None and begun[0] is job and begun[1].exception() is None
            opened = begun[1].result() if there else self._open_job(job)
        except Exception:
            self._begin_after(job)
            raise
        self._begin_after(job)
        return opened

    def _begin_after(self, job: Job) -> None:
        later = self._next.get(id(job))
        if later is not None:
            self._begun = later, self._thread.submit(self._open_job, later)
