"""A translation command's jobs divided among the processes that torchrun starts."""

import json
import threading
from dataclasses import asdict
from pathlib import Path

from pipeline.inference.batch.existing import pending_jobs
from pipeline.inference.batch.jobs import Job
from pipeline.utils.distributed import World, init_distributed

PATHS = ("source", "target", "uncertainty", "outdated")  # a job's


def shard(jobs: list[Job], world: World) -> list[Job]:
    """Return this process's jobs: every `size`-th of all, whether done already or not.

    What is done differs from one look to the next while others are at work; the list of all does not, so that each job
    is one process's and stays it when all are started again.
    """
    return jobs[world.rank :: world.size]


def gather_jobs(shard_jobs: list[Job], world: World) -> list[Job]:
    """Wait until every process is through its share, and return all jobs, as they were planned, with what came of them.

    Every process gets the same, and so ends with the same exit code: torchrun stops the others as soon as one ends with
    a code other than 0, and one bad volume would.

    Raises:
        UserError: another process has ended before it was through.
        KeyboardInterrupt: a signal stopped the wait.
    """
    if world.size == 1:
        return shard_jobs
    results: list[list[Job] | BaseException] = []

    def exchange() -> None:
        try:
            results.append(_all_gather_jobs(shard_jobs))
        except BaseException as error:  # raised again where it is waited for
            results.append(error)

    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    thread.join()  # torch's own wait for the others would keep Python from answering signals
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def update_other_jobs(jobs: list[Job], world: World) -> None:
    """Note which of the other processes' jobs are there and whole: a process that is stopped cannot ask them."""
    pending_jobs(
        [job for index, job in enumerate(jobs) if index % world.size != world.rank], overwrite=False, quiet=True
    )


def _all_gather_jobs(shard_jobs: list[Job]) -> list[Job]:
    with init_distributed() as world:
        shards = [
            json.loads(text)
            for text in world.all_gather_text(json.dumps([asdict(job) for job in shard_jobs], default=str))
        ]
    all_jobs: list[Job] = [None] * sum(map(len, shards))
    for rank, jobs in enumerate(shards):
        all_jobs[rank :: world.size] = [
            Job(**job | {name: Path(job[name]) for name in PATHS if job[name]}) for job in jobs
        ]
    return all_jobs
