"""A translation command's jobs divided among the processes that torchrun starts."""

import json
import threading
from dataclasses import asdict
from pathlib import Path

from pipeline.inference.batch.existing import pending_jobs
from pipeline.inference.batch.jobs import Job
from pipeline.utils.distributed import World, init_distributed

PATHS = ("source", "target", "uncertainty", "outdated")  # fields of a job


def shard(jobs: list[Job], world: World) -> list[Job]:
    """Return this process's jobs: every `size`-th of all, whether done already or not.

    Processes that check for themselves which jobs are done would disagree while others are at work. The list of all
    jobs is the same for all, so each job belongs to one process, also when the command is repeated.
    """
    return jobs[world.rank :: world.size]


def gather_jobs(shard_jobs: list[Job], world: World) -> list[Job]:
    """Wait until every process has done its jobs, and return all jobs in the order of the plan, with their outcome.

    Every process gets the same jobs, and so ends with the same exit code. Otherwise one bad volume would stop all:
    torchrun stops the others as soon as a process ends with a code other than 0.

    Raises:
        UserError: another process ended before its jobs were done.
        KeyboardInterrupt: a signal stopped the wait.
    """
    if world.size == 1:
        return shard_jobs
    results: list[list[Job] | BaseException] = []

    def exchange() -> None:
        try:
            results.append(_all_gather_jobs(shard_jobs))
        except BaseException as error:  # raised again in the main thread
            results.append(error)

    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    thread.join()  # torch's own wait for the others would keep Python from answering signals
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def update_other_jobs(jobs: list[Job], world: World) -> None:
    """Set the status of other processes' jobs by their outputs: a process that was stopped cannot gather them."""
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
