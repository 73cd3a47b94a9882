"""A translation command's jobs divided among the processes that torchrun starts."""

from pipeline.distributed import World, opened
from pipeline.errors import EXIT_PARTLY_DONE
from pipeline.translation.jobs import Job


def share(jobs: list[Job], world: World) -> list[Job]:
    """Return this process's jobs: every `size`-th of all, whether done already or not.

    What is done differs from one look to the next while others are at work; the list of all does not, so that each job
    is one process's and stays it when all are started again.
    """
    return jobs[world.rank :: world.size]


def agreed(code: int) -> int:
    """Wait until every process is through its share, and return one exit code for all: the common one, or 3.

    torchrun stops the others as soon as one process ends with a code other than 0: one bad volume would.
    """
    with opened() as world:
        codes = world.every(code)
    return code if len(set(codes)) == 1 else EXIT_PARTLY_DONE
