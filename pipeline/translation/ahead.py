"""Opening the next volume of a job while the present one is on its way through a GPU."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.translation.jobs import Job

if TYPE_CHECKING:
    from pipeline.translation.views import Opened


class Ahead:
    """Opens a job's volume, and begins to open the next one's in a thread: one at a time, so memory holds two at most.

    What is wrong with a volume is raised when it is its turn.

    Args:
        open_job: Opens a job's volume.
        jobs: In the order in which they will be asked for; one that is skipped costs its opening, no more.
    """

    def __init__(self, open_job: "Callable[[Job], Opened]", jobs: Sequence[Job]):
        self._open_job = open_job
        self._next = {id(job): following for job, following in pairwise(jobs)}
        self._begun: tuple[Job, Future] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="opening")

    def __call__(self, job: Job) -> "Opened":
        """Return a job's opened volume; errors are those of opening it."""
        begun, self._begun = self._begun, None
        try:
            return begun[1].result() if begun is not None and begun[0] is job else self._open_job(job)
        finally:
            following = self._next.get(id(job))
            if following is not None:
                self._begun = following, self._thread.submit(self._open_job, following)
