"""What an earlier command has left where a volume is to go: whether it is whole, and what it says to be."""

import math
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.console import progress
from pipeline.errors import Stopped
from pipeline.files import is_file
from pipeline.translation.jobs import FAILED, NOT_DONE, SKIPPED, Job

MANY = 50  # files; fewer are looked at within a second or two
_CHUNK_BYTES = 1 << 20


def to_do(jobs: list[Job], *, overwrite: bool, to: str | None = None, quiet: bool = False) -> list[Job]:
    """Return the jobs that are to be done; of the others, those whose files are there and whole become `SKIPPED`.

    Where it is told which contrast is to be made, those fail whose target holds another that was made earlier.

    Args:
        jobs: Of the command.
        overwrite: Whether all are to be done, whatever is there.
        to: The contrast that is to be made, where it is told.
        quiet: Whether to show no progress where there are many to look at.

    Raises:
        Stopped: Ctrl-C came.
    """
    begun = [] if overwrite else [job for job in jobs if job.status == NOT_DONE and is_file(job.target)]
    show = {"total": len(begun), "title": "what is there", "unit": "volume", "quiet": quiet or len(begun) < MANY}
    given_up = threading.Event()

    def is_there(job: Job) -> bool:
        return all(is_whole(path, given_up) for path in (job.target, job.uncertainty) if path is not None)

    pool = ThreadPoolExecutor(os.cpu_count())  # decompression releases the interpreter's lock
    try:
        for job, there in zip(begun, progress(pool.map(is_there, begun), **show), strict=True):
            if there:
                _take_for_done(job, to)
    except BaseException as stop:  # a signal's, among others: leaves at the next piece of a file
        given_up.set()
        if type(stop) is KeyboardInterrupt:  # SIGTERM's says as much by itself
            raise Stopped(signal.SIGINT, "interrupted; the same command does what is left") from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [job for job in jobs if job.status == NOT_DONE]


def _take_for_done(job: Job, to: str | None) -> None:
    made = contrast_in(job.target)
    if to is None or made in (None, to):
        job.status = SKIPPED
    else:
        job.status = FAILED
        job.error = f"{job.source}: {job.target} holds a synthetic {made}; choose another OUT, or add --overwrite"


def is_whole(path: Path, given_up: threading.Event | None = None) -> bool:
    """Whether a NIfTI file is there with all of its voxels: ours always are, but a copy may have been cut short.

    A compressed one is read to its end, as whoever opens it next will: a damaged translation must not be skipped for
    ever. That takes a hundredth of the time that translating the volume took.

    Args:
        path: Of the file.
        given_up: Set when nobody waits for the answer any more: it is then False.
    """
    if not is_file(path) or path.stat().st_size == 0:
        return False
    import nibabel as nib  # slow, and needed only where there is something to look at
    from isal import igzip

    from transforms.nifti_log import nibabel_silent

    try:
        with nibabel_silent():
            image = nib.load(path)
        voxels = image.dataobj
        wanted = voxels.offset + voxels.dtype.itemsize * math.prod(image.shape)
        if not path.name.lower().endswith(".gz"):
            return path.stat().st_size >= wanted
        with igzip.open(path) as stream:  # to its end, where gzip has a checksum and the length
            pieces = iter(lambda: b"" if given_up is not None and given_up.is_set() else stream.read(_CHUNK_BYTES), b"")
            return sum(map(len, pieces)) >= wanted
    except Exception:  # whatever a damaged file makes nibabel raise
        return False


def contrast_in(path: Path) -> str | None:
    """Return the contrast that a whole file says to be a translation to; None where it says no such thing."""
    import nibabel as nib

    from transforms.nifti_log import nibabel_silent

    with nibabel_silent():
        text = bytes(nib.load(path).header["descrip"].item()).decode("utf-8", "replace")
    found = re.match(r"synthetic ([^,;]+)[,;]", text)
    return found and found[1]
