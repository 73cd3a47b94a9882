"""A translation command's list of jobs: which volume goes where, working through them, and what came of each."""

import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.console import progress, table
from pipeline.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PARTLY_DONE, UserError

FOUND_IN_FOLDERS = (".nii", ".nii.gz", ".hdr")  # a .hdr stands for its .img
WRITABLE = (".nii", ".nii.gz")


@dataclass
class Job:
    """A volume to translate, where it goes, and what came of it ("" until something did)."""

    source: Path
    target: Path
    status: str = ""
    seconds: float = 0.0
    message: str = ""


def plan(inputs: list[Path], out: Path) -> list[Job]:
    """Return what is to be translated to where, in order; nothing is read or written.

    Raises:
        UserError: a folder holds no volumes, OUT does not fit IN, or a source would be overwritten.
    """
    if len(inputs) == 1 and not inputs[0].is_dir() and _is_volume(out, WRITABLE) and not out.is_dir():
        jobs = [Job(inputs[0], out)]
    else:
        if _is_volume(out, WRITABLE) or out.is_file():
            raise UserError(f"{out}: is one file's name, and there may be several volumes; give a folder as OUT")
        found = {source: below for given in inputs for source, below in _volumes(given, out)}
        jobs = _placed(found, out)
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise UserError(f"{job.target}: OUT would overwrite a source; choose another folder")
    return jobs


def _is_volume(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)


def _volumes(given: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return a file, or a folder's volumes, each with its path below OUT; what lies in OUT itself is left out."""
    if not given.is_dir():  # a missing file fails when its turn comes, so that the others are still made
        return [(given, Path(given.name))]
    if out.resolve() == given.resolve():
        raise UserError(f"{out}: OUT is the folder of the sources; choose another one")
    found = [
        (path, path.relative_to(given))
        for path in sorted(given.rglob("*"))
        if _is_volume(path, FOUND_IN_FOLDERS)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(given).parts)
        and out.resolve() not in path.resolve().parents
    ]
    if not found:
        raise UserError(f"{given}: no .nii or .nii.gz files in this folder; check the path")
    return found


def _placed(found: dict[Path, Path], out: Path) -> list[Job]:
    """Give every source a target of its own below OUT."""
    unique = {source.resolve(): (source, below) for source, below in reversed(found.items())}
    sources = [source for source, _ in reversed(unique.values())]
    targets = [_as_nifti(out / found[source]) for source in sources]
    if len(set(targets)) < len(targets):
        absolute = [source.absolute() for source in sources]
        common = next(folder for folder in absolute[0].parents if all(folder in path.parents for path in absolute))
        targets = [_as_nifti(out / path.relative_to(common)) for path in absolute]
    taken: dict[Path, Path] = {}
    for source, target in zip(sources, targets, strict=True):
        if target in taken:
            raise UserError(f"{source} and {taken[target]}: both would become {target}; translate them separately")
        taken[target] = source
    return [Job(source, target) for source, target in zip(sources, targets, strict=True)]


def _as_nifti(path: Path) -> Path:
    return path if _is_volume(path, WRITABLE) else path.with_suffix(".nii.gz")


def require_writable(folder: Path) -> None:
    """Try to write where a folder is or would be made; raises UserError where nothing can be written there."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another OUT") from error


def work_through(jobs: list[Job], translate_one: Callable[[Path, Path], None], *, quiet: bool) -> bool:
    """Translate each job in turn, noting what came of it; return False where Ctrl-C ended it early."""
    try:
        for job in progress(jobs, title="volumes", unit="vol", quiet=quiet):
            started = time.perf_counter()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                job.status, job.message = _attempt(lambda job=job: translate_one(job.source, job.target))
            notes = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
            job.message = "; ".join(part for part in (job.message, *notes) if part)
            job.seconds = time.perf_counter() - started
    except KeyboardInterrupt:
        return False
    return True


def _attempt(action: Callable[[], None]) -> tuple[str, str]:
    """Run an action; return its status and message, for one bad volume must not stop the others."""
    try:
        action()
    except UserError as error:
        return "failed", " ".join(str(error).split())
    except Exception as error:
        return "failed", " ".join(f"unexpected {type(error).__name__}: {error}".split())
    return "translated", ""


def summary(jobs: list[Job]) -> str:
    """Return the table of what became of each volume, and a line of totals."""
    rows = [
        (job.source, job.status or "not done", f"{job.seconds:.1f}", job.message.replace(f"{job.source}: ", ""))
        for job in jobs
    ]
    counts = {status: sum(row[1] == status for row in rows) for status in dict.fromkeys(row[1] for row in rows)}
    totals = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{table(('file', 'status', 'seconds', 'message'), rows)}\n{totals}"


def exit_code(jobs: list[Job]) -> int:
    """Return 0 where every volume is there, 2 where none is, 3 where some are."""
    failed = sum(job.status == "failed" for job in jobs)
    if not failed:
        return EXIT_DONE
    return EXIT_BAD_INPUT if failed == len(jobs) else EXIT_PARTLY_DONE
