"""A translation command's jobs, what came of each, and the signals that stop it in between."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from pipeline.utils.console import one_line, table
from pipeline.utils.distributed import ProcessLost
from pipeline.utils.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PARTLY_DONE
from pipeline.utils.interruption import signal_handlers
from transforms.io.fetched import not_fetched

TRANSLATED, SKIPPED, FAILED, NOT_DONE = "translated", "skipped", "failed", "not done"
FOREIGN, OTHER_MODEL, STALE = "foreign", "other model", "stale"  # what stands in the place, and stays
STATUSES = (TRANSLATED, SKIPPED, FOREIGN, OTHER_MODEL, STALE, FAILED, NOT_DONE)
MOST_ROWS = 20  # of the table at a command's end, where nothing was wrong with more of them


@dataclass
class Job:
    """A volume to translate, where it goes, and what came of it.

    Attributes:
        source: A volume's file, or the folder of a DICOM series.
        target: The `.nii` or `.nii.gz` to write.
        uncertainty: The map of the error to expect that is written beside it; None for none.
        status: One of `TRANSLATED`, `SKIPPED` (it was there), `FAILED` and `NOT_DONE`; or what else was there:
            `FOREIGN` (a file of others), `OTHER_MODEL` (of another model) or `STALE` (made before its source changed).
        seconds: That it took.
        warnings: What was doubtful about it, a line each.
        error: Why it failed or was left as it is, in one line; "" where neither.
        outdated: Where a map lies, or may lie, that is not written anew and so goes when the volume is replaced.
    """

    source: Path
    target: Path
    status: str = NOT_DONE
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    uncertainty: Path | None = None
    outdated: Path | None = None

    @property
    def message(self) -> str:
        """Error and warnings in one line."""
        return "; ".join(part for part in (self.error, *self.warnings) if part)


class StopSignals:
    """While entered, SIGTERM and SIGINT (Ctrl-C) end the work; `number` is then the signal's, otherwise 0.

    SIGINT does so too where a shell that started the command in the background had it ignored. The `KeyboardInterrupt`
    ends with the block; so does, after a signal, the news that other processes ended. Outside the main thread
    signals are not caught.
    """

    def __init__(self) -> None:
        self.number = 0
        self._handled = signal_handlers((signal.SIGINT, signal.SIGTERM), self._stop)

    def __enter__(self) -> "StopSignals":
        self._handled.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._handled.__exit__(None, None, None)
        ended_by = (KeyboardInterrupt, ProcessLost) if self.number else KeyboardInterrupt
        interrupted = kind is not None and issubclass(kind, ended_by)
        if interrupted:
            self.number = self.number or signal.SIGINT
        return interrupted

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise the interrupt again where it was lost: Python drops what is raised in a destructor."""
        if self.number:
            raise KeyboardInterrupt


def counts(jobs: list[Job]) -> dict[str, int]:
    """Return how many jobs have each status, in order of first appearance."""
    return {status: sum(job.status == status for job in jobs) for status in dict.fromkeys(job.status for job in jobs)}


def outcome(jobs: list[Job]) -> str:
    """Return the table of what became of each volume, of more than 20 those that have a message; and a line of totals.

    All of them stand in the summary.
    """
    shown = jobs
    if len(jobs) > MOST_ROWS:
        shown = [job for job in jobs if job.error or job.warnings]
    rows = []
    for job in shown:
        name = one_line(str(job.source))
        rows.append((name, job.status, f"{job.seconds:.1f}", one_line(job.message).replace(f"{name}: ", "")))
    totals = ", ".join(f"{count} {status}" for status, count in counts(jobs).items())
    return f"{table(('file', 'status', 'seconds', 'message'), rows)}\n{totals}" if rows else totals


def outlook(jobs: list[Job]) -> str:
    """Return the table of what would become of each volume, for a dry run."""
    rows = [(one_line(str(job.source)), one_line(str(job.target)), one_line(_fate(job))) for job in jobs]
    return f"{table(('file', 'becomes', 'what would be done'), rows)}\nnothing was written"


def _fate(job: Job) -> str:
    if job.status == SKIPPED:
        return "; ".join(["skip", *job.warnings])
    if job.status == NOT_DONE and (elsewhere := not_fetched(job.source)):
        return f"refuse: {elsewhere}"
    if job.status == NOT_DONE and not os.path.exists(job.source):  # noqa: PTH110  (`Path`'s raises for long names)
        return "refuse: no such file"
    if job.status in (FOREIGN, OTHER_MODEL, STALE):
        return f"leave as it is, {job.status}: {job.error}"
    return "translate" if job.status == NOT_DONE else f"refuse: {job.error}"


def exit_code(jobs: list[Job]) -> int:
    """Return 0 where every volume is there, 2 where none is, 3 where some are."""
    there = sum(job.status in (TRANSLATED, SKIPPED) for job in jobs)
    if there == len(jobs):
        return EXIT_DONE
    return EXIT_PARTLY_DONE if there else EXIT_BAD_INPUT
