"""A translation command's jobs divided among the processes that torchrun starts."""

import json
import threading
from dataclasses import asdict
from pathlib import Path

from pipeline.inference.batch.existing import pending_jobs
from pipeline.inference.batch.jobs import Job
from pipeline.utils.distributed import World, init_distributed

PATHS = ("source", "target", "uncertainty", "outdated")  # a job's


def share(jobs: list[Job], world: World) -> list[Job]:
    """Return this process's jobs: every `size`-th of all, whether done already or not.

    What is done differs from one look to the next while others are at work; the list of all does not, so that each job
    is one process's and stays it when all are started again.
    """
    return jobs[world.rank :: world.size]


def collected(own: list[Job], world: World) -> list[Job]:
    """Wait until every process is through its share, and return all jobs, as they were planned, with what came of them.

    Every process gets the same, and so ends with the same exit code: torchrun stops the others as soon as one ends with
    a code other than 0, and one bad volume would.

    Raises:
        UserError: another process has ended before it was through.
        KeyboardInterrupt: a signal stopped the wait.
    """
    if world.size == 1:
        return own
    ended: list[list[Job] | BaseException] = []

    def exchange() -> None:
        try:
            ended.append(_exchanged(own))
        except BaseException as error:  # raised again where it is waited for
            ended.append(error)

    waiting = threading.Thread(target=exchange, daemon=True)
    waiting.start()
    waiting.join()  # torch's own wait for the others would keep Python from answering signals
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


def note_others(jobs: list[Job], world: World) -> None:
    """Note which of the other processes' jobs are there and whole: a process that is stopped cannot ask them."""
    pending_jobs(
        [job for place, job in enumerate(jobs) if place % world.size != world.rank], overwrite=False, quiet=True
    )


def _exchanged(own: list[Job]) -> list[Job]:
    with init_distributed() as world:
        shares = [
            json.loads(text) for text in world.all_gather_text(json.dumps([asdict(job) for job in own], default=str))
        ]
    every: list[Job] = [None] * sum(map(len, shares))
    for rank, jobs in enumerate(shares):
        every[rank :: world.size] = [
            Job(**job | {name: Path(job[name]) for name in PATHS if job[name]}) for job in jobs
        ]
    return every
