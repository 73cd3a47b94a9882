"""Translating a command's jobs one after the other, and the outcome on the console and in the summary."""

import json
import logging
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline import __version__
from pipeline.inference.batch.bids_dataset import BidsDerivative, sidecar_of
from pipeline.inference.batch.jobs import (
    FAILED,
    NOT_DONE,
    STATUSES,
    TRANSLATED,
    Job,
    StopSignals,
    outcome_table,
    status_counts,
)
from pipeline.inference.batch.provenance import Provenance, write_record
from pipeline.inference.batch.uncertainty_maps import is_uncertainty_map
from pipeline.utils.console import on_one_line, one_line, progress
from pipeline.utils.errors import EXIT_PARTLY_DONE, DiskFull, UserError
from pipeline.utils.files import atomic_text, is_folder, text_writer, write_together

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pipeline.inference.multi_view import MultiViewTranslator, OpenedViews, ViewTranslation

SUMMARY_FORMAT = 1


def job_opener(
    views: "MultiViewTranslator", *, strict: bool = False, provenance: Provenance | None = None
) -> "Callable[[Job], OpenedViews]":
    """Return a function that reads and prepares a job's source, a file or the folder of a DICOM series.

    Args:
        views: The translator; see `pipeline.inference.multi_view.MultiViewTranslator.open`, for `strict` too.
        strict: Whether a source that is unlike the model's training cohort is refused.
        provenance: The model's record, which `OpenedViews.record` holds with the source's; None for none.
    """
    from pipeline.inference.batch.dicom_folders import read_series

    def read(job: Job) -> "OpenedViews":
        return views.open(read_series(job.source) if is_folder(job.source) else job.source, strict=strict)

    def read_with_record(job: Job) -> "OpenedViews":
        try:  # before it is read: of a source that changes meanwhile, this is never the record of its new content
            record = provenance.of_source(job.source)
        except UserError:
            read(job)  # which says in better words what is wrong with a source that cannot be read
            raise
        return read(job)._replace(record=record)

    return read if provenance is None else read_with_record


def job_translator(
    views: "MultiViewTranslator",
    derivative: BidsDerivative | None,
    open_job: "Callable[[Job], OpenedViews] | None" = None,
    *,
    batch_size: int = 8,
    keep_header_text: bool = False,
) -> Callable[[Job], None]:
    """Return a function that reads, translates and writes one job.

    Sidecars, map and volume replace earlier ones together, or not at all. The volume is written last, for its presence
    marks the job as done.

    Args:
        views: The translator. For the options see `pipeline.inference.multi_view.MultiViewTranslator.translate`.
        derivative: The BIDS derivative that the jobs belong to; None where they belong to none.
        open_job: Function that opens a job's source; None for `job_opener`.
    """
    open_source = open_job or job_opener(views)

    def translate_one(job: Job) -> None:
        if derivative is not None:
            derivative.source_sidecar(job)  # fails early on a damaged sidecar: translating takes minutes
        source = open_source(job)
        translation = views.translate_opened(source, batch_size, keep_header_text)
        if source.record is not None:
            for image in filter(None, translation):
                write_record(image, source.record)
        texts = {} if derivative is None else derivative.sidecars(job)
        outdated = [job.outdated] if job.outdated is not None and is_uncertainty_map(job.outdated) else []
        if derivative is not None:
            outdated += [sidecar_of(path) for path in outdated]
        write_together(
            {path: text_writer(text) for path, text in texts.items()} | _volume_writers(translation, job), outdated
        )

    return translate_one


def _volume_writers(translation: "ViewTranslation", job: Job) -> dict[Path, Callable[[BinaryIO], None]]:
    """Return the writers of map and volume, in that order, by their paths."""
    from pipeline.inference.output_volume import volume_writer

    images = {} if translation.uncertainty is None else {job.uncertainty: translation.uncertainty}
    return {path: volume_writer(image, path) for path, image in (images | {job.target: translation.volume}).items()}


def translate_jobs(
    jobs: list[Job],
    translate_one: Callable[[Job], None],
    *,
    quiet: bool = False,
    verbose: bool = False,
    stop: StopSignals | None = None,
) -> None:
    """Translate each job in turn and record its outcome. A failure does not stop the others, but a full disk does.

    Args:
        jobs: The jobs to do; changed in place.
        translate_one: Function that translates one job and writes its target.
        quiet: Whether to leave out the progress bar.
        verbose: Whether to print a line for each finished volume instead of the bar.
        stop: Stop signals, checked before each job.

    Raises:
        KeyboardInterrupt: Ctrl-C; the outcome of finished jobs is recorded.
    """
    for job in progress(jobs, title="volumes", unit="vol", quiet=quiet or verbose):
        if stop is not None:
            stop.check()
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught_warnings:
            warnings.simplefilter("always", UserWarning)
            disk_is_full = _translate_job(job, translate_one)
        messages = [str(warning.message) for warning in caught_warnings if issubclass(warning.category, UserWarning)]
        job.warnings += [on_one_line(message, job.source, job.target) for message in dict.fromkeys(messages)]
        job.seconds = time.perf_counter() - started
        if verbose:
            ended = f"{job.source} -> {job.target}: {job.status} in {job.seconds:.1f} s"
            logger.info(one_line("; ".join([ended, *filter(None, [job.message])])))
        if disk_is_full:
            break


def _translate_job(job: Job, translate_one: Callable[[Job], None]) -> bool:
    """Translate one volume and record the outcome in its job; return whether the disk is full."""
    try:
        translate_one(job)
    except Exception as error:
        job.status = FAILED
        job.error = on_one_line(_failure_message(error, job), job.source, job.target)
        return isinstance(error, DiskFull)
    job.status = TRANSLATED
    return False


def _failure_message(error: Exception, job: Job) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{job.source}: does not fit into memory; crop it or use a larger machine"
    return f"unexpected {type(error).__name__}: {error}"


def print_outcome(jobs: list[Job], *, quiet: bool, stopped: int, overwrite: bool = False) -> None:
    """Print the outcome of each volume, or only errors and warnings, and how to translate the rest.

    Args:
        jobs: The command's jobs.
        quiet: Whether to print errors and warnings only.
        stopped: The number of the signal that stopped the command; 0 for none.
        overwrite: Whether the same command would make again what is there: it was told to overwrite.
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
    if stopped:
        reason = "stopped: interrupted" if stopped == signal.SIGINT else f"stopped by {signal.Signals(stopped).name}"
        logger.error(f"{reason}; {remedy}")
    elif NOT_DONE in status_counts(jobs):
        logger.error(f"stopped: the disk is full; {remedy}")


def write_summary(
    path: Path, jobs: list[Job], *, arguments: Mapping[str, object], model: Mapping[str, str], code: int, started: float
) -> int:
    """Write the outcome of every volume of a command to its summary, atomically; return the exit code.

    Args:
        path: The summary's path.
        jobs: All jobs, skipped ones included.
        arguments: The command's arguments; values that JSON does not know become text.
        model: The model's info; empty where none was loaded because there was nothing to do.
        code: The command's exit code so far.
        started: Start of the command, in seconds since the epoch.

    Returns:
        The exit code. Where the summary cannot be written, an error is printed and 0 becomes 3.
    """
    # Collect the command, its model and the outcome of each volume.
    totals = status_counts(jobs)
    content = {
        "format": SUMMARY_FORMAT,
        "version": __version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
        "arguments": arguments,
        "model": model,
        "exit_code": code,
        "totals": {"volumes": len(jobs)} | {status: totals.get(status, 0) for status in STATUSES},
        "volumes": [
            {
                "source": str(job.source),
                "target": str(job.target),
                **({} if job.uncertainty is None else {"uncertainty": str(job.uncertainty)}),
                "status": job.status,
                "seconds": round(job.seconds, 3),
                "warnings": job.warnings,
                "error": job.error,
            }
            for job in jobs
        ],
    }

    # Write it; a failure changes the exit code only.
    try:
        atomic_text(path, json.dumps(content, indent=2, default=str) + "\n")
    except UserError as error:
        logger.error(one_line(f"error: {error}"))
        return code or EXIT_PARTLY_DONE
    return code
