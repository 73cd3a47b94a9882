"""Outputs that exist already: whether this command made them, whether they are complete, and by which model."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from isal import igzip

from pipeline.inference.batch.jobs import FOREIGN, HEADER_TEXT, NOT_DONE, OTHER_MODEL, SKIPPED, STALE, Job
from pipeline.inference.batch.provenance import CommandModel, Provenance, keeps_header_text, read_header, read_record
from pipeline.utils.console import progress
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file

MIN_PROGRESS_FILES = 50  # fewer files are checked within a second or two, without a progress bar
_CHUNK_BYTES = 1 << 20


def pending_jobs(
    jobs: list[Job], *, overwrite: bool, to: str | None = None, quiet: bool = False, model: CommandModel | None = None
) -> list[Job]:
    """Return the jobs that are to be done; the others get a status by their existing outputs.

    `SKIPPED`: volume and map exist, complete, from this model and this source. `LEFT`: another file exists, and stays.
    `FAILED`: the target holds another contrast than `to`, if the user gave one. Files of this command that are damaged
    or empty are made again, and with `overwrite` all. `model` is loaded only if its files do not show whether it made
    an output, or a volume is not of the contrast `to`; without it, neither models nor sources are compared.

    Raises:
        UserError: the model cannot be loaded, does not make `to`, or makes several contrasts and `to` is None.
    """
    candidates = []
    if not overwrite:
        candidates = [job for job in jobs if job.status == NOT_DONE and any(map(is_file, job.outputs))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decompression and checksums release the interpreter's lock
        states = progress(
            pool.map(_output_state, candidates),
            total=len(candidates),
            title="what is there",
            unit="volume",
            quiet=quiet or len(candidates) < MIN_PROGRESS_FILES,
        )
        for job, state in zip(candidates, states, strict=True):
            _set_status(job, state, to, model)
    return [job for job in jobs if job.status == NOT_DONE]


@dataclass(frozen=True)
class _OutputState:
    """The state of a job's existing outputs."""

    foreign: Path | None = None  # the first file that this command did not make
    record: Provenance | None = None  # that of the volume; None where it does not exist or is damaged
    complete: bool = False  # whether volume and map exist, complete, and were made together
    changed: bool = False  # whether the source has changed since
    has_text: bool = False  # whether volume or map keeps text of the source's header, which may hold names


def _output_state(job: Job) -> _OutputState:
    records = {path: read_record(path) for path in job.outputs if _is_filled(path)}
    for path, record in records.items():
        if record is None and _is_filled(path):  # otherwise gone meanwhile: another command may be at work in OUT
            return _OutputState(foreign=path)
    record = records.get(job.target)
    if record is None or not is_whole(job.target):
        return _OutputState()
    complete = all(records.get(path) == record and is_whole(path) for path in job.outputs)
    try:
        changed = record.of_source(job.source) != record
    except (UserError, OSError):  # the source does not exist any more, its translation does
        changed = False
    has_text = any(map(keeps_header_text, records))
    return _OutputState(record=record, complete=complete, changed=changed, has_text=has_text)


def _set_status(job: Job, state: _OutputState, to: str | None, model: CommandModel | None) -> None:
    """Set a job's status and error by its existing outputs; both stay as they are where the job is to be done.

    A volume of another contrast, model or source is kept even where its map is missing: someone may need it, so only
    `--overwrite` replaces it.
    """
    record = state.record
    if record is not None and model is not None and record.to != to and not (to is None and model.is_exported):
        _ = model.views  # which refuses a contrast that the model does not make, and several without a choice
    if state.foreign is not None:
        remedy = "move it away, choose another OUT, or add --overwrite"
        job.fail(f"{state.foreign} is there and was not made by this command; {remedy}", FOREIGN)
    elif record is None:
        return
    elif to is not None and record.to != to:
        job.fail(f"{job.target} holds a synthetic {record.to}; choose another OUT, or add --overwrite")
    elif model is not None and not model.matches(record):
        made_by = f"{job.target} was made by another model (weights {record.weights}, to {record.to})"
        job.fail(f"{made_by}; choose another OUT, or add --overwrite", OTHER_MODEL)
    elif model is not None and state.changed:
        job.fail(f"has changed since {job.target} was made of it; add --overwrite to translate it again", STALE)
    elif model is not None and state.has_text and not model.header_text:
        text = "keeps text of its source's header, which may hold names; add --overwrite to make it without"
        job.fail(f"{job.target} {text}", HEADER_TEXT)
    elif state.complete:
        job.status, job.computed_by = SKIPPED, record.computed_by


def _is_filled(path: Path) -> bool:
    try:
        return is_file(path) and path.stat().st_size > 0
    except OSError:  # the file vanished between the two calls
        return False


def is_whole(path: Path) -> bool:
    """Whether a NIfTI file exists with all of its voxels: an interrupted copy has fewer.

    A compressed file is read to its end, so that a damaged translation is not skipped for ever. That takes a hundredth
    of the time that translating the volume took.
    """
    header = read_header(path)
    if header is None:
        return False
    expected_bytes = int(header["vox_offset"]) + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size >= expected_bytes
    try:
        with igzip.open(path) as stream:  # to its end, where gzip has a checksum and the length
            return sum(map(len, iter(lambda: stream.read(_CHUNK_BYTES), b""))) >= expected_bytes
    except Exception:  # damaged gzip data has several kinds of errors
        return False
