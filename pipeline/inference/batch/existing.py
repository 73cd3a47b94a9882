"""What stands where a volume is to go: whether it is ours and whole, and what made it."""

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

MIN_PROGRESS_FILES = 50  # files; fewer are looked at within a second or two
_CHUNK_BYTES = 1 << 20


def pending_jobs(
    jobs: list[Job],
    *,
    overwrite: bool,
    to: str | None = None,
    quiet: bool = False,
    model: CommandModel | None = None,
) -> list[Job]:
    """Return the jobs that are to be done; the others get a status that says what is in their outputs' place.

    `SKIPPED`: volume and map are there, whole, and made by this model of this source, or nothing says by what.
    `FOREIGN`, `OTHER_MODEL`, `STALE`: something else is there, which stays. Those fail whose target holds another
    contrast than is to be made. A damaged file of ours is made again, and so is an empty one.

    Args:
        jobs: Of the command.
        overwrite: Whether all are to be done, whatever is there.
        to: The contrast that is to be made, where it is told.
        quiet: Whether to show no progress where there are many to look at.
        model: The command's, which is loaded where its files do not tell whether it made what is there; None: it is
            not asked for, nor are the sources.

    Raises:
        Stopped: Ctrl-C came.
        UserError: the model had to be loaded and cannot be.
    """
    candidates = (
        [] if overwrite else [job for job in jobs if job.status == NOT_DONE and any(map(is_file, outputs(job)))]
    )
    bar_options = {
        "total": len(candidates),
        "title": "what is there",
        "unit": "volume",
        "quiet": quiet or len(candidates) < MIN_PROGRESS_FILES,
    }
    cancelled = threading.Event()

    def inspected(job: Job) -> _OutputState:
        return _output_state(job, cancelled, with_source=model is not None)

    pool = ThreadPoolExecutor(os.cpu_count())  # decompression and checksums release the interpreter's lock
    try:
        for job, state in zip(candidates, progress(pool.map(inspected, candidates), **bar_options), strict=True):
            _set_status(job, state, to, model)
    except BaseException as error:  # a signal's, among others: leaves at the next piece of a file
        cancelled.set()
        if type(error) is KeyboardInterrupt:  # SIGTERM's says as much by itself
            raise Stopped(signal.SIGINT, "interrupted; the same command does what is left") from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [job for job in jobs if job.status == NOT_DONE]


def outputs(job: Job) -> list[Path]:
    """Return where a job's volume goes and, where one is wanted, its map."""
    return [path for path in (job.target, job.uncertainty) if path is not None]


@dataclass(frozen=True)
class _OutputState:
    """What stands in the place of a job's outputs.

    Attributes:
        foreign: The first file that does not say to be ours; None where all do.
        mark: What the volume says of itself; None where it is not there, or damaged.
        complete: Whether volume and map are there, whole, and made together.
        changed: Whether the source is another one than the volume's.
    """

    foreign: Path | None = None
    mark: Mark | None = None
    complete: bool = False
    changed: bool = False


def _output_state(job: Job, cancelled: threading.Event, *, with_source: bool) -> _OutputState:
    existing = [path for path in outputs(job) if is_file(path) and path.stat().st_size > 0]
    marks = {path: read_mark(path) for path in existing}
    foreign = next((path for path in existing if marks[path] is None), None)
    if foreign is not None:
        return _OutputState(foreign=foreign)
    is_complete = {path: is_whole(path, cancelled) for path in existing}
    if not is_complete.get(job.target):
        return _OutputState()
    mark = marks[job.target]
    record = mark.provenance
    complete = all(is_complete.get(path) and marks[path].provenance == record for path in outputs(job))
    try:
        changed = with_source and record is not None and not record.is_of(job.source)
    except UserError:  # the source is not there any more: what was made of it is
        changed = False
    return _OutputState(mark=mark, complete=complete, changed=changed)


def _set_status(job: Job, state: _OutputState, to: str | None, model: CommandModel | None) -> None:
    """Give a job the status that follows from what is there, and the reason; it stays as it is where it is to be done.

    A volume of another contrast, model or source is named even where its map is missing: only `--overwrite` replaces
    what may be dear to someone.
    """
    if state.foreign is not None:
        reason = "was not made by this command; move it away, choose another OUT, or add --overwrite"
        job.status, job.error = FOREIGN, f"{job.source}: {state.foreign} is there and {reason}"
        return
    if state.mark is None:
        return
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
    """Whether a NIfTI file is there with all of its voxels: ours always are, but a copy may have been cut short.

    A compressed one is read to its end, as whoever opens it next will: a damaged translation must not be skipped for
    ever. That takes a hundredth of the time that translating the volume took.

    Args:
        path: Of the file.
        cancelled: Set when nobody waits for the answer any more: it is then False.
    """
    if not is_file(path) or path.stat().st_size == 0:
        return False
    import nibabel as nib  # slow, and needed only where there is something to look at
    from isal import igzip

    from transforms.io.nifti_log import nibabel_silent

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
