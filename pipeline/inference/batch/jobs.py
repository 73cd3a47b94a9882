"""A translation command's jobs, their outcome, and their division among the processes that torchrun starts."""

import json
import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.utils.distributed import World, init_distributed
from pipeline.utils.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PARTLY_DONE

TRANSLATED, SKIPPED, FAILED, NOT_DONE = "translated", "skipped", "failed", "not done"
FOREIGN, OTHER_MODEL = "foreign", "other model"  # what stands there is of another program, or of another model
STALE = "stale"  # it is of a source that has changed since
HEADER_TEXT = "header text"  # it has text of its source's header, which this command would drop
LEFT = FOREIGN, OTHER_MODEL, STALE, HEADER_TEXT  # as it is
STATUSES = (TRANSLATED, SKIPPED, *LEFT, FAILED, NOT_DONE)


@dataclass
class Job:
    """A volume to translate, the path of its translation, and the outcome."""

    source: Path  # a volume's file, or the folder of a DICOM series
    target: Path  # the `.nii` or `.nii.gz` to write
    status: str = NOT_DONE  # one of `STATUSES`
    seconds: float = 0.0
    computed_by: str = ""  # what computed the networks of the translation, whichever command made it, as it records
    warnings: list[str] = field(default_factory=list)  # a line each
    error: str = ""  # the reason why it failed or was left as it is, in one line
    uncertainty: Path | None = None  # the map of the expected error, where one is wanted
    outdated: Path | None = None  # a map of an earlier command, which is removed when the volume is replaced

    @property
    def outputs(self) -> list[Path]:
        """The paths of the volume and, where one is wanted, of its map."""
        return [self.target] if self.uncertainty is None else [self.target, self.uncertainty]

    @property
    def message(self) -> str:
        """Error and warnings in one line."""
        return "; ".join(text for text in (self.error, *self.warnings) if text)

    def fail(self, reason: str, status: str = FAILED) -> None:
        """Record why the job is not done."""
        self.status, self.error = status, f"{self.source}: {reason}"


def status_counts(jobs: list[Job]) -> Counter[str]:
    """Return how many jobs have each status, in order of first appearance."""
    return Counter(job.status for job in jobs)


def exit_code(jobs: list[Job]) -> int:
    """Return 0 where every volume was translated or skipped, 2 where none was, 3 where some were."""
    counts = status_counts(jobs)
    available = counts[TRANSLATED] + counts[SKIPPED]
    if available == len(jobs):
        return EXIT_DONE
    return EXIT_PARTLY_DONE if available else EXIT_BAD_INPUT


# ── several processes ───────────────────────────────────────────────────────────────────────────────────────


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
    gathered: Future[list[Job]] = Future()

    def exchange() -> None:
        try:
            gathered.set_result(_all_gather_jobs(shard_jobs))
        except BaseException as error:
            gathered.set_exception(error)

    threading.Thread(target=exchange, daemon=True).start()
    return gathered.result()  # torch's own wait for the others would keep Python from answering signals


def _all_gather_jobs(shard_jobs: list[Job]) -> list[Job]:
    with init_distributed() as world:
        texts = world.all_gather_text(json.dumps(list(map(asdict, shard_jobs)), default=str))  # paths as text
    shards = [[_job(content) for content in json.loads(text)] for text in texts]
    count = sum(map(len, shards))
    return [shards[index % world.size][index // world.size] for index in range(count)]


def _job(content: dict[str, Any]) -> Job:
    paths = ("source", "target", "uncertainty", "outdated")
    return Job(**content | {name: Path(content[name]) for name in paths if content[name] is not None})
