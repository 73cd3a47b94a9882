"""A command's jobs translated one after the other; the next volume is read while a GPU translates the present one."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pipeline.inference.batch.bids import BidsDerivative, sidecar_of
from pipeline.inference.batch.dicom_folders import read_series
from pipeline.inference.batch.jobs import FAILED, TRANSLATED, Job
from pipeline.inference.batch.provenance import Provenance, is_translation, is_uncertainty_map, write_record
from pipeline.inference.multi_view import MultiViewTranslator
from pipeline.inference.output_volume import volume_writer
from pipeline.inference.translator import OpenedVolume, warning_text
from pipeline.utils.console import one_line, progress
from pipeline.utils.errors import DiskFull, UserError, first_line
from pipeline.utils.files import is_folder, text_writer, write_together
from transforms.io.nifti_checks import TooLargeError

logger = logging.getLogger(__name__)

READ_AHEAD = ("cuda",)  # devices that leave the processor free to read the next volume

Opened = tuple[list[OpenedVolume], Provenance]  # a volume for each view, and the record of its translation
OpenJob = Callable[[Job], Opened]


@dataclass(frozen=True)
class JobTranslator:
    """Translates jobs: reads a source, translates it and writes the outputs.

    `provenance` is the record of the model's outputs, without a source; `derivative` the BIDS derivative that the jobs
    belong to, if any. For the options see `pipeline.inference.translator.translate`.
    """

    views: MultiViewTranslator
    provenance: Provenance
    derivative: BidsDerivative | None = None
    batch_size: int = 8
    keep_header_text: bool = False
    strict: bool = False

    def open(self, job: Job) -> Opened:
        """Read and prepare a job's source, a file or the folder of a DICOM series.

        The record is made before the source is read: of one that changes meanwhile, it is never of the new content.
        """
        try:
            record = self.provenance.of_source(job.source)
        except UserError:
            self._opened_views(job)  # which says in better words what is wrong with a source that cannot be read
            raise
        opened = self._opened_views(job)
        if not is_folder(job.source) and is_translation(job.source):
            job.warnings.append(f"{job.source}: is a translation itself, not a scan")
        return opened, record

    def _opened_views(self, job: Job) -> list[OpenedVolume]:
        source = read_series(job.source) if is_folder(job.source) else job.source
        return self.views.open(source, strict=self.strict)

    def translate(self, job: Job, open_job: OpenJob | None = None) -> None:
        """Translate one job; `open_job` opens its source in place of `open`.

        Sidecars, map and volume are all complete before the first is moved into place. The volume is the last, for its
        presence marks the job as done.
        """
        # Translate; a damaged sidecar is refused before, for translating takes minutes.
        if self.derivative is not None:
            self.derivative.source_sidecar(job)
        opened, record = (open_job or self.open)(job)
        translation = self.views.translate_opened(opened, self.batch_size, self.keep_header_text)
        if text := warning_text(opened):
            job.warnings.append(text)

        # Write the outputs, and remove an earlier map that the new volume outdates.
        images = {job.target: translation.volume}
        if job.uncertainty is not None and translation.uncertainty is not None:
            images = {job.uncertainty: translation.uncertainty, **images}
        writers = {}
        outdated = [job.outdated] if job.outdated is not None and is_uncertainty_map(job.outdated) else []
        if self.derivative is not None:
            sidecars = self.derivative.sidecars(job, record.computed_by)
            writers = {path: text_writer(text) for path, text in sidecars.items()}
            outdated += [sidecar_of(path) for path in outdated]
        for path, image in images.items():
            write_record(image, record)
            writers[path] = volume_writer(image, path)
        write_together(writers, outdated)
        job.computed_by = record.computed_by


def translate_jobs(
    jobs: Sequence[Job], translator: JobTranslator, *, quiet: bool = False, verbose: bool = False
) -> None:
    """Translate each job in turn and record its outcome. A failure does not stop the others, but a full disk does.

    Prints a progress bar, or with `verbose` a line for each finished volume.
    """
    open_job: OpenJob = translator.open
    if translator.views.models[0].device.type in READ_AHEAD:
        open_job = Prefetcher(translator.open, jobs)
    for job in progress(jobs, title="volumes", unit="vol", quiet=quiet or verbose):
        started = time.perf_counter()
        disk_is_full = False
        try:
            translator.translate(job, open_job)
            job.status = TRANSLATED
        except Exception as error:
            job.status, job.error = FAILED, one_line(_failure_message(error, job.source))
            disk_is_full = isinstance(error, DiskFull)
        job.warnings = [one_line(warning) for warning in job.warnings]
        job.seconds = time.perf_counter() - started
        if verbose:
            ended = f"{job.source} -> {job.target}: {job.status} in {job.seconds:.1f} s"
            logger.info(one_line("; ".join([ended, *filter(None, [job.message])])))
        if disk_is_full:
            break


def _failure_message(error: Exception, source: Path) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{source}: does not fit into memory; crop it or use a larger machine"
    return f"unexpected {type(error).__name__}: {first_line(error)}"


class Prefetcher:
    """Opens a job's volume, then the next job's in a thread, so that memory holds two volumes at most.

    `jobs` are in the order of the calls. If one is left out, its prefetched volume is dropped.
    """

    def __init__(self, open_job: OpenJob, jobs: Sequence[Job]):
        self._open_job, self._pool = open_job, ThreadPoolExecutor(1, "opening")
        self._next = {id(job): next_job for job, next_job in pairwise(jobs)}
        self._opening: dict[int, Future[Opened]] = {}

    def __call__(self, job: Job) -> Opened:
        """Return a job's opened volume; errors are those of opening it."""
        opening = self._opening.pop(id(job), None)
        self._opening.clear()
        try:
            return self._open_job(job) if opening is None else opening.result()
        except Exception as error:
            if opening is None or not (isinstance(error, MemoryError) or isinstance(error.__cause__, TooLargeError)):
                raise
            return self._open_job(job)  # there was too little memory for two
        finally:
            if (next_job := self._next.get(id(job))) is not None:
                self._opening[id(next_job)] = self._pool.submit(self._open_job, next_job)
