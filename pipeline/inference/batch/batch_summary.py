"""Where a command's summary goes, that it falls on nothing else, and what an earlier one still knows."""

import json
import math
import os
import tempfile
from pathlib import Path

from pipeline.inference.batch.jobs import SKIPPED, Job
from pipeline.inference.batch.outputs import absolute_path, real_path
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file, is_folder

SUMMARY = "summary.json"
_VOLUME_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")


def default_summary_path(output: Path, jobs: list[Job], *, single: bool) -> Path | None:
    """Return where a batch leaves its summary unless told; None for a single file, which is no batch.

    Args:
        output: The command's OUT; where it is itself the one target it never becomes a folder.
        jobs: All.
        single: Whether the command was given one file, and by name.
    """
    return None if single or (len(jobs) == 1 and jobs[0].target == output) else output / SUMMARY


def require_summary_path(summary: Path | None, jobs: list[Job], list_file: str | None) -> None:
    """Raise UserError where a summary that was asked for could not be written, be it at the end of a long night.

    It would overwrite a volume, a file of a DICOM series or the list of inputs, or its place is a folder, or none.
    """
    if summary is None:
        return
    if is_folder(summary):
        raise UserError(f"--summary {summary}: is a folder; give a file's name, as {summary / SUMMARY}")
    targets = {real_path(path) for job in jobs for path in (job.target, job.uncertainty) if path is not None}
    sources = {real_path(job.source) for job in jobs} | ({real_path(Path(list_file))} if list_file else set())
    path = real_path(summary)
    if summary.name.lower().endswith(_VOLUME_SUFFIXES) or path in targets or {path, path.parent} & sources:
        raise UserError(f"--summary {summary}: is a volume's place, or holds what is read; give another, as told.json")
    try:
        folder = next(path for path in summary.absolute().parents if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--summary {summary}: cannot be written ({error.strerror}); give another place") from error


def require_no_foreign_summary(path: Path | None, *, overwrite: bool) -> None:
    """Refuse to begin where OUT holds another `summary.json` than this command's, which would be lost.

    Args:
        path: Where the summary goes without being told; None for nowhere.
        overwrite: Whether the command may replace what is there.

    Raises:
        UserError: something else is there.
    """
    if path is None or overwrite or not is_file(path):
        return
    try:
        content = json.loads(path.read_bytes())
    except OSError:  # writing it says what is wrong
        return
    except (ValueError, RecursionError):
        content = None
    if not (isinstance(content, dict) and {"format", "version", "volumes"} <= set(content)):
        remedy = "move it away, give another place with --summary, or add --overwrite"
        raise UserError(f"{path}: is there and is no summary of this command; {remedy}")


def restore_skipped(path: Path, output: Path, jobs: list[Job]) -> dict[str, str]:
    """Take over what an earlier summary of the same OUT says of the volumes that were skipped now.

    One that is missing, damaged or of another OUT says nothing.

    Args:
        path: Where it lies.
        output: The command's OUT; volumes are known by their path below it.
        jobs: All; of the skipped ones `seconds` and `warnings` are changed in place.

    Returns:
        What it says of the model; empty where it says nothing of that, or of none of these volumes.
    """
    try:
        summary = json.loads(path.read_bytes())
        earlier_output = Path(summary["arguments"]["output"])
        is_same_output = absolute_path(path.parent) == absolute_path(output) or absolute_path(
            earlier_output
        ) == absolute_path(output)
        entries = (
            {os.path.relpath(entry["target"], earlier_output): entry for entry in summary["volumes"]}
            if is_same_output
            else {}
        )
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}
    is_known = False
    for job in jobs:
        entry = entries.get(os.path.relpath(job.target, output))
        if job.status != SKIPPED or entry is None:
            continue
        seconds, notes = entry.get("seconds"), entry.get("warnings")
        if type(seconds) in (int, float) and math.isfinite(seconds) and _is_text_list(notes):
            job.warnings = [*notes, *(note for note in job.warnings if note not in notes)]
            job.seconds, is_known = float(seconds), True
    model = summary.get("model")
    return model if is_known and isinstance(model, dict) and _is_text_list([*model.values()]) else {}


def _is_text_list(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
