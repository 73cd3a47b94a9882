"""The path of a command's summary, checks that nothing else is overwritten, and results of an earlier summary."""

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
    """Return the path of the summary without `--summary`; None for a single file.

    Args:
        output: The command's OUT. Where it is itself the target of the only job, there is no folder for a summary.
        jobs: All jobs.
        single: Whether the command's only input is a file that was named.
    """
    return None if single or (len(jobs) == 1 and jobs[0].target == output) else output / SUMMARY


def require_summary_path(summary: Path | None, jobs: list[Job], list_file: str | None) -> None:
    """Refuse a `--summary` that could not be written at the end, or would overwrite a file of the command.

    Raises:
        UserError: the path is a folder or not writable, or would overwrite a volume, a file of a DICOM series or the
            list of inputs.
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
    """Refuse to begin where OUT holds a `summary.json` of another program, which would be lost.

    Args:
        path: The summary's default path; None where there will be no summary.
        overwrite: Whether the command may replace existing files.

    Raises:
        UserError: the file is no summary of this command.
    """
    if path is None or overwrite or not is_file(path):
        return
    try:
        content = json.loads(path.read_bytes())
    except OSError:  # writing the summary reports the reason
        return
    except (ValueError, RecursionError):
        content = None
    if not (isinstance(content, dict) and {"format", "version", "volumes"} <= set(content)):
        remedy = "move it away, give another place with --summary, or add --overwrite"
        raise UserError(f"{path}: is there and is no summary of this command; {remedy}")


def restore_skipped(path: Path, output: Path, jobs: list[Job]) -> dict[str, str]:
    """Take over seconds and warnings of skipped volumes from an earlier summary of the same OUT.

    A summary that is missing, damaged or of another OUT is ignored.

    Args:
        path: The summary's path.
        output: The command's OUT; volumes are identified by their path below it.
        jobs: All jobs; `seconds` and `warnings` of skipped ones are changed in place.

    Returns:
        The model's info from the summary; empty where it has none, or none of these volumes.
    """
    # Read the earlier summary, and its volumes by their path below OUT.
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

    # Take over the results of skipped volumes.
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
