"""Where a command's summary goes, that it falls on nothing else, and what an earlier one still knows."""

import json
import math
import os
import tempfile
from pathlib import Path

from pipeline.inference.batch.jobs import SKIPPED, Job
from pipeline.inference.batch.outputs import plain, real
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file, is_folder

SUMMARY = "summary.json"
_OF_VOLUMES = (".nii", ".nii.gz", ".hdr", ".img")


def place_of_summary(out: Path, jobs: list[Job], *, single: bool) -> Path | None:
    """Return where a batch leaves its summary unless told; None for a single file, which is no batch.

    Args:
        out: The command's OUT; where it is itself the one target it never becomes a folder.
        jobs: All.
        single: Whether the command was given one file, and by name.
    """
    return None if single or (len(jobs) == 1 and jobs[0].target == out) else out / SUMMARY


def require_own_place(summary: Path | None, jobs: list[Job], list_file: str | None) -> None:
    """Raise UserError where a summary that was asked for could not be written, be it at the end of a long night.

    It would overwrite a volume, a file of a DICOM series or the list of inputs, or its place is a folder, or none.
    """
    if summary is None:
        return
    if is_folder(summary):
        raise UserError(f"--summary {summary}: is a folder; give a file's name, as {summary / SUMMARY}")
    targets = {real(path) for job in jobs for path in (job.target, job.uncertainty) if path is not None}
    sources = {real(job.source) for job in jobs} | ({real(Path(list_file))} if list_file else set())
    place = real(summary)
    if summary.name.lower().endswith(_OF_VOLUMES) or place in targets or {place, place.parent} & sources:
        raise UserError(f"--summary {summary}: is a volume's place, or holds what is read; give another, as told.json")
    try:
        there = next(place for place in summary.absolute().parents if os.path.lexists(place))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"--summary {summary}: cannot be written ({error.strerror}); give another place") from error


def require_summarys_place(place: Path | None, *, overwrite: bool) -> None:
    """Refuse to begin where OUT holds another `summary.json` than this command's, which would be lost.

    Args:
        place: Where the summary goes without being told; None for nowhere.
        overwrite: Whether the command may replace what is there.

    Raises:
        UserError: something else is there.
    """
    if place is None or overwrite or not is_file(place):
        return
    try:
        content = json.loads(place.read_bytes())
    except OSError:  # writing it says what is wrong
        return
    except (ValueError, RecursionError):
        content = None
    if not (isinstance(content, dict) and {"format", "version", "volumes"} <= set(content)):
        remedy = "move it away, give another place with --summary, or add --overwrite"
        raise UserError(f"{place}: is there and is no summary of this command; {remedy}")


def recall(place: Path, out: Path, jobs: list[Job]) -> dict[str, str]:
    """Take over what an earlier summary of the same OUT says of the volumes that were skipped now.

    One that is missing, damaged or of another OUT says nothing.

    Args:
        place: Where it lies.
        out: The command's OUT; volumes are known by their path below it.
        jobs: All; of the skipped ones `seconds` and `warnings` are changed in place.

    Returns:
        What it says of the model; empty where it says nothing of that, or of none of these volumes.
    """
    try:
        earlier = json.loads(place.read_bytes())
        before = Path(earlier["arguments"]["output"])
        same = plain(place.parent) == plain(out) or plain(before) == plain(out)
        told = {os.path.relpath(entry["target"], before): entry for entry in earlier["volumes"]} if same else {}
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}
    known = False
    for job in jobs:
        entry = told.get(os.path.relpath(job.target, out))
        if job.status != SKIPPED or entry is None:
            continue
        seconds, notes = entry.get("seconds"), entry.get("warnings")
        if type(seconds) in (int, float) and math.isfinite(seconds) and _texts(notes):
            job.warnings = [*notes, *(note for note in job.warnings if note not in notes)]
            job.seconds, known = float(seconds), True
    model = earlier.get("model")
    return model if known and isinstance(model, dict) and _texts([*model.values()]) else {}


def _texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
