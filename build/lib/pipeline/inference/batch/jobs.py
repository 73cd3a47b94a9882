"""A translation command's jobs, their outcome, and the signals that stop the command."""

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
FOREIGN, OTHER_MODEL, STALE = "foreign", "other model", "stale"  # existing outputs that stay
STATUSES = (TRANSLATED, SKIPPED, FOREIGN, OTHER_MODEL, STALE, FAILED, NOT_DONE)
MAX_ROWS = 20  # more jobs than this are listed only where they have an error or a warning


@dataclass
class Job:
    """A volume to translate, the path of its translation, and the outcome.

    Attributes:
        source: A volume's file, or the folder of a DICOM series.
        target: The `.nii` or `.nii.gz` to write.
        uncertainty: The path of the map of the expected error; None where none is wanted.
        status: One of `TRANSLATED`, `SKIPPED` (it exists), `FAILED` and `NOT_DONE`; or, where another file exists,
            `FOREIGN` (of another program), `OTHER_MODEL` (of another model) or `STALE` (older than its source).
        seconds: Duration of the job.
        warnings: The warnings about the volume, a line each.
        error: The reason why it failed or was left as it is, in one line; "" where neither.
        outdated: The path of a map of an earlier command, which is removed when the volume is replaced; None for none.
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
        return "; ".join(text for text in (self.error, *self.warnings) if text)


class StopSignals:
    """Context in which SIGTERM and SIGINT (Ctrl-C) stop the work; `number` is then the signal's, otherwise 0.

    SIGINT is handled even where a shell that started the command in the background had it ignored. The context swallows
    the `KeyboardInterrupt` and, after a signal, the error that other processes have ended. Outside the main thread
    signals are not handled.
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
        """Raise the interrupt again where it was lost: Python drops exceptions in destructors."""
        if self.number:
            raise KeyboardInterrupt


def status_counts(jobs: list[Job]) -> dict[str, int]:
    """Return how many jobs have each status, in order of first appearance."""
    return {status: sum(job.status == status for job in jobs) for status in dict.fromkeys(job.status for job in jobs)}


def outcome_table(jobs: list[Job]) -> str:
    """Return a table of the jobs' outcome and a line of totals.

    Of more than `MAX_ROWS` jobs only those with an error or a warning are listed; the summary lists all.
    """
    listed = jobs
    if len(jobs) > MAX_ROWS:
        listed = [job for job in jobs if job.error or job.warnings]
    rows = []
    for job in listed:
        name = one_line(str(job.source))
        rows.append((name, job.status, f"{job.seconds:.1f}", one_line(job.message).replace(f"{name}: ", "")))
    totals = ", ".join(f"{count} {status}" for status, count in status_counts(jobs).items())
    return f"{table(('file', 'status', 'seconds', 'message'), rows)}\n{totals}" if rows else totals


def dry_run_table(jobs: list[Job]) -> str:
    """Return a table of what the command would do with each volume, for a dry run."""
    rows = [(one_line(str(job.source)), one_line(str(job.target)), one_line(_planned_action(job))) for job in jobs]
    return f"{table(('file', 'becomes', 'what would be done'), rows)}\nnothing was written"


def _planned_action(job: Job) -> str:
    if job.status == SKIPPED:
        return "; ".join(["skip", *job.warnings])
    if job.status == NOT_DONE and (reason := not_fetched(job.source)):
        return f"refuse: {reason}"
    if job.status == NOT_DONE and not os.path.exists(job.source):  # noqa: PTH110  (`Path`'s raises for long names)
        return "refuse: no such file"
    if job.status in (FOREIGN, OTHER_MODEL, STALE):
        return f"leave as it is, {job.status}: {job.error}"
    return "translate" if job.status == NOT_DONE else f"refuse: {job.error}"


def exit_code(jobs: list[Job]) -> int:
    """Return 0 where every volume was translated or skipped, 2 where none was, 3 where some were."""
    available = sum(job.status in (TRANSLATED, SKIPPED) for job in jobs)
    if available == len(jobs):
        return EXIT_DONE
    return EXIT_PARTLY_DONE if available else EXIT_BAD_INPUT
