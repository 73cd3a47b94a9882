"""Outputs that exist already: whether this command made them, whether they are complete, and by which model."""

import math
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.inference.batch.jobs import FAILED, FOREIGN, NOT_DONE, OTHER_MODEL, SKIPPED, STALE, Job
from pipeline.inference.batch.provenance import CommandModel, Mark, read_mark
from pipeline.utils.console import progress
from pipeline.utils.errors import Stopped, UserError
from pipeline.utils.files import is_file

MIN_PROGRESS_FILES = 50  # fewer files are checked within a second or two, without a progress bar
_CHUNK_BYTES = 1 << 20


def pending_jobs(
    jobs: list[Job],
    *,
    overwrite: bool,
    to: str | None = None,
    quiet: bool = False,
    model: CommandModel | None = None,
) -> list[Job]:
    """Return the jobs that are to be done; the others get a status by their existing outputs.

    `SKIPPED`: volume and map exist, complete, from this model and this source, or without a record of either.
    `FOREIGN`, `OTHER_MODEL`, `STALE`: another file exists, and stays. `FAILED`: the target holds another contrast than
    `to`. Files of this command that are damaged or empty are made again.

    Args:
        jobs: The command's jobs; changed in place.
        overwrite: Whether all jobs are to be done, whatever exists.
        to: The contrast to make; None where the user gave none.
        quiet: Whether to leave out the progress bar.
        model: The command's model, loaded only if its files do not show whether it made an output. None: neither models
            nor sources are compared.

    Raises:
        Stopped: Ctrl-C came.
        UserError: the model had to be loaded and cannot be.
    """
    candidates = []
    if not overwrite:
        candidates = [job for job in jobs if job.status == NOT_DONE and any(map(is_file, outputs(job)))]
    bar_options = {
        "total": len(candidates),
        "title": "what is there",
        "unit": "volume",
        "quiet": quiet or len(candidates) < MIN_PROGRESS_FILES,
    }
    cancelled = threading.Event()

    def inspect(job: Job) -> _OutputState:
        return _output_state(job, cancelled, with_source=model is not None)

    # Inspect existing outputs in threads, and set the jobs' status in order.
    pool = ThreadPoolExecutor(os.cpu_count())  # decompression and checksums release the interpreter's lock
    try:
        for job, state in zip(candidates, progress(pool.map(inspect, candidates), **bar_options), strict=True):
            _set_status(job, state, to, model)
    except BaseException as error:  # signals included; the threads end at the next chunk of a file
        cancelled.set()
        if type(error) is KeyboardInterrupt:  # SIGTERM's error has its own message
            raise Stopped(signal.SIGINT, "interrupted; the same command does what is left") from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [job for job in jobs if job.status == NOT_DONE]


def outputs(job: Job) -> list[Path]:
    """Return the paths of a job's volume and, where one is wanted, of its map."""
    return [path for path in (job.target, job.uncertainty) if path is not None]


@dataclass(frozen=True)
class _OutputState:
    """The state of a job's existing outputs.

    Attributes:
        foreign: The first file that this command did not make; None where there is none.
        mark: The mark in the volume's header; None where the volume does not exist or is damaged.
        complete: Whether volume and map exist, complete, and were made together.
        changed: Whether the source has changed since the volume was made.
    """

    foreign: Path | None = None
    mark: Mark | None = None
    complete: bool = False
    changed: bool = False


def _output_state(job: Job, cancelled: threading.Event, *, with_source: bool) -> _OutputState:
    existing = list(filter(_is_filled, outputs(job)))
    marks = {path: read_mark(path) for path in existing}
    unmarked = [path for path in existing if marks[path] is None]
    if unmarked:  # foreign, or gone meanwhile: another command may be at work in the same OUT
        return _OutputState(foreign=next(filter(_is_filled, unmarked), None))
    whole_files = {path for path in existing if is_whole(path, cancelled)}
    if job.target not in whole_files:
        return _OutputState()
    mark = marks[job.target]
    record = mark.provenance
    complete = all(path in whole_files and marks[path].provenance == record for path in outputs(job))
    try:
        changed = with_source and record is not None and not record.is_of(job.source)
    except UserError:  # the source does not exist any more, its translation does
        changed = False
    return _OutputState(mark=mark, complete=complete, changed=changed)


def _is_filled(path: Path) -> bool:
    try:
        return is_file(path) and path.stat().st_size > 0
    except OSError:  # the file vanished between the two calls
        return False


def _set_status(job: Job, state: _OutputState, to: str | None, model: CommandModel | None) -> None:
    """Set a job's status and error by its existing outputs; both stay as they are where the job is to be done.

    A volume of another contrast, model or source is kept even where its map is missing: someone may need it, so only
    `--overwrite` replaces it.
    """
    # A file of another program.
    if state.foreign is not None:
        reason = "was not made by this command; move it away, choose another OUT, or add --overwrite"
        job.status, job.error = FOREIGN, f"{job.source}: {state.foreign} is there and {reason}"
        return
    if state.mark is None:
        return

    # A volume of this command: another contrast, another model, another source, or complete.
    record = state.mark.provenance
    contrast = state.mark.contrast if record is None else record.to
    if to is not None and contrast not in ("", to):
        job.status = FAILED
        job.error = f"{job.source}: {job.target} holds a synthetic {contrast}; choose another OUT, or add --overwrite"
    elif record is not None and model is not None and not model.matches(record):
        job.status = OTHER_MODEL
        job.error = (
            f"{job.source}: {job.target} was made by another model (weights {record.weights}, to {record.to}); "
            "choose another OUT, or add --overwrite"
        )
    elif state.changed:
        job.status = STALE
        job.error = (
            f"{job.source}: has changed since {job.target} was made of it; add --overwrite to translate it again"
        )
    elif state.complete:
        job.status = SKIPPED
        if record is None:
            job.warnings.append(f"{job.target}: has no record of what made it; skipped, --overwrite makes it anew")


def is_whole(path: Path, cancelled: threading.Event | None = None) -> bool:
    """Whether a NIfTI file exists with all of its voxels: an interrupted copy has fewer.

    A compressed file is read to its end, so that a damaged translation is not skipped for ever. That takes a hundredth
    of the time that translating the volume took.

    Args:
        path: The file's path.
        cancelled: Event that stops the check, which then returns False.
    """
    if not _is_filled(path):
        return False
    import nibabel as nib  # slow, and needed only where outputs exist
    from isal import igzip

    from transforms.io.nifti_checks import nibabel_silent

    try:
        with nibabel_silent():
            image = nib.load(path)
        voxels = image.dataobj
        expected_bytes = voxels.offset + voxels.dtype.itemsize * math.prod(image.shape)
        if not path.name.lower().endswith(".gz"):
            return path.stat().st_size >= expected_bytes
        with igzip.open(path) as stream:  # to its end, where gzip has a checksum and the length
            pieces = iter(
                lambda: b"" if cancelled is not None and cancelled.is_set() else stream.read(_CHUNK_BYTES), b""
            )
            return sum(map(len, pieces)) >= expected_bytes
    except Exception:  # whatever a damaged file makes nibabel raise
        return False
