"""The outcome of a translation command: on the console, and for machines in a summary file."""

import json
import logging
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.inference.batch.jobs import LEFT, NOT_DONE, SKIPPED, STATUSES, TRANSLATED, Job, status_counts
from pipeline.utils.console import one_line, table
from pipeline.utils.errors import EXIT_PARTLY_DONE, UserError
from pipeline.utils.files import atomic_text, is_file, require_writable
from transforms.io.fetched import not_fetched

logger = logging.getLogger(__name__)

SUMMARY_FORMAT = 1
SUMMARY = "summary.json"
MAX_ROWS = 20  # more jobs than this are listed only where they have an error or a warning


# ── the console ─────────────────────────────────────────────────────────────────────────────────────────────


def outcome_table(jobs: list[Job]) -> str:
    """Return a table of the outcome, of more than `MAX_ROWS` jobs only errors and warnings, and a line of totals."""
    rows = []
    for job in jobs:
        if len(jobs) <= MAX_ROWS or job.message:
            name = one_line(str(job.source))
            rows.append((name, job.status, f"{job.seconds:.1f}", one_line(job.message).replace(f"{name}: ", "")))
    totals = ", ".join(f"{count} {status}" for status, count in status_counts(jobs).items())
    return f"{table(('file', 'status', 'seconds', 'message'), rows)}\n{totals}" if rows else totals


def dry_run_table(jobs: list[Job]) -> str:
    """Return a table of what the command would do with each volume."""
    rows = [(one_line(str(job.source)), one_line(str(job.target)), one_line(_planned_action(job))) for job in jobs]
    return f"{table(('file', 'becomes', 'what would be done'), rows)}\nnothing was written"


def _planned_action(job: Job) -> str:
    if job.status == SKIPPED:
        return "skip"
    if job.status in LEFT:
        return f"leave as it is, {job.status}: {job.error}"
    if job.status != NOT_DONE:
        return f"refuse: {job.error}"
    if reason := not_fetched(job.source):
        return f"refuse: {reason}"
    return "translate" if os.path.exists(job.source) else "refuse: no such file"  # noqa: PTH110  (long names)


def print_outcome(jobs: list[Job], *, quiet: bool, stopped: int, overwrite: bool = False) -> None:
    """Print the outcome of each volume, or only errors and warnings, and how to translate the rest.

    `stopped` is the number of the signal that stopped the command, 0 for none.
    """
    remedy = "run the same command again, which begins anew" if overwrite else "run the same command again for the rest"
    single_failure = len(jobs) == 1 and jobs[0].error != ""  # a table would say no more
    if quiet or single_failure:
        for job in jobs:
            for note in job.warnings:
                logger.warning(one_line(note))
            if job.error:
                logger.error(one_line(f"error: {job.error}"))
    else:
        logger.info(outcome_table(jobs))
        if made := [job.target for job in jobs if job.status == TRANSLATED]:
            folder = made[0] if len(made) == 1 else Path(os.path.commonpath([path.parent for path in made]))
            logger.info(f"{'written to' if len(made) == 1 else 'written below'} {one_line(str(folder))}")
    if stopped:
        reason = "stopped: interrupted" if stopped == signal.SIGINT else f"stopped by {signal.Signals(stopped).name}"
        logger.error(f"{reason}; {remedy}")
    elif NOT_DONE in status_counts(jobs):
        logger.error(f"stopped: the disk is full; {remedy}")


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────


def require_summary_path(summary: Path) -> None:
    """Refuse a `--summary` that could not be written at the end, or that no JSON file's name protects a volume from.

    Raises:
        UserError: the path does not end in `.json`, is a folder or is not writable.
    """
    if summary.suffix.lower() != ".json":
        raise UserError(f"--summary {summary}: the summary is JSON; give a name that ends in .json")
    require_writable(summary)


def require_no_foreign_summary(path: Path) -> None:
    """Refuse to begin where OUT holds a `summary.json` of another program, which would be lost; raises UserError."""
    if not is_file(path):
        return
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    if not (isinstance(content, dict) and {"format", "version", "volumes"} <= set(content)):
        raise UserError(
            f"{path}: is there and is no summary of this command; move it away, give another path with --summary, or "
            "add --overwrite"
        )


def write_summary(
    path: Path,
    jobs: list[Job],
    *,
    arguments: Mapping[str, Any],
    model: Mapping[str, str],
    code: int,
    started: float,
) -> int:
    """Write the outcome of every volume of a command to its summary, atomically; return the exit code.

    Where it cannot be written, an error is printed and 0 becomes 3. `model` is empty where none was loaded because
    there was nothing to do; `started` is in seconds since the epoch.
    """
    totals = status_counts(jobs)
    content = {
        "format": SUMMARY_FORMAT,
        "version": __version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
        "arguments": arguments,
        "model": model,
        "computed_by": ", ".join(dict.fromkeys(job.computed_by for job in jobs if job.computed_by)),
        "exit_code": code,
        "totals": {"volumes": len(jobs)} | {status: totals[status] for status in STATUSES},
        "volumes": [
            {name: value for name, value in asdict(job).items() if value is not None and name != "outdated"}
            | {"seconds": round(job.seconds, 3)}
            for job in jobs
        ],
    }
    try:
        atomic_text(path, json.dumps(content, indent=2, default=str) + "\n")
    except UserError as error:
        logger.error(one_line(f"error: {error}"))
        return code or EXIT_PARTLY_DONE
    return code
