"""A translation command's list of jobs: which volume goes where, working through them, and what came of each."""

import os
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
    if len(inputs) == 1 and not _is_folder(inputs[0]) and _is_volume(out, WRITABLE) and not out.is_dir():
        jobs = [Job(inputs[0], out)]
    else:
        if _is_volume(out, WRITABLE) or out.is_file():
            raise UserError(f"{out}: is one file's name, and there may be several volumes; give a folder as OUT")
        found = {source: below for given in inputs for source, below in _volumes(given, out)}
        if len(inputs) == 1 and list(found) == inputs and _is_folder(inputs[0]):
            raise UserError(_without_volumes(inputs[0]))
        jobs = _placed(found, out)
    sources = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target) in sources:
            raise UserError(f"{job.target}: OUT would overwrite a source; choose another folder")
    return jobs


def _is_volume(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112  (Path.is_dir raises for names that are too long)


def _volumes(given: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return a file, or a folder's volumes, each with its path below OUT; what lies in OUT itself is left out.

    What is missing or cannot be read is returned too: it fails when its turn comes, so that the others are still made.
    """
    if not _is_folder(given):
        return [(given, Path(given.name))]
    real_out = os.path.realpath(out)
    if real_out == os.path.realpath(given):
        raise UserError(f"{out}: OUT is the folder of the sources; choose another one")
    return [(path, path.relative_to(given)) for path in _walk(given, real_out, ())] or [(given, Path(given.name))]


def _walk(folder: Path, out: str, above: tuple[str, ...]) -> list[Path]:
    """List the volumes below a folder, sorted; links are followed, but not in circles. Hidden entries are left out."""
    real = os.path.realpath(folder)
    if real == out or real in above:
        return []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return [folder]
    found = []
    for path in entries:
        if path.name.startswith("."):
            continue
        named_so = _is_volume(path, FOUND_IN_FOLDERS)
        if _is_folder(path):
            below = _walk(path, out, (*above, real))
            found += below or ([path] if named_so and os.path.realpath(path) != out else [])
        elif named_so:
            found.append(path)
    return found


def _placed(found: dict[Path, Path], out: Path) -> list[Job]:
    """Give every source a target of its own below OUT; those that would be one volume there have failed already."""
    unique = {_identity(source): (source, below) for source, below in reversed(found.items())}
    sources = [source for source, _ in reversed(unique.values())]
    targets = [_as_nifti(out / found[source]) for source in sources]
    if len({_stem(target) for target in targets}) < len(targets):
        absolute = [source.absolute() for source in sources]
        common = next(folder for folder in absolute[0].parents if all(folder in path.parents for path in absolute))
        targets = [_as_nifti(out / path.relative_to(common)) for path in absolute]
    jobs = [Job(source, target) for source, target in zip(sources, targets, strict=True)]
    for job in jobs:
        if _is_folder(job.source):
            job.status, job.message = "failed", _without_volumes(job.source)
    same: dict[Path, list[Job]] = {}
    for job in jobs:
        same.setdefault(_stem(job.target), []).append(job)
    for twins in (twins for twins in same.values() if len(twins) > 1):
        names = " and ".join(twin.source.name for twin in twins)
        for job in twins:
            job.status = "failed"
            job.message = f"{job.source}: {names} would be one volume; move one away, or translate them separately"
    return jobs


def _identity(source: Path) -> str:
    """Return what two names of one volume have in common; a pair is its .hdr."""
    if source.suffix.lower() == ".img":
        for suffix in (".hdr", ".HDR"):
            if (header := source.with_suffix(suffix)).exists():
                return os.path.realpath(header)
    return os.path.realpath(source)


def _without_volumes(folder: Path) -> str:
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"{folder}: this folder cannot be listed; check its permissions"
    return f"{folder}: no .nii or .nii.gz files in this folder; check the path"


def _stem(target: Path) -> Path:
    """Return a volume's path without .nii or .nii.gz."""
    suffix = next(suffix for suffix in (".nii.gz", ".nii") if target.name.lower().endswith(suffix))
    return target.with_name(target.name[: -len(suffix)] or suffix)


def _as_nifti(path: Path) -> Path:
    if _is_volume(path, WRITABLE):
        return path
    return path.with_name(f"{path.stem if path.suffix.lower() in ('.hdr', '.img') else path.name}.nii.gz")


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
        return "failed", str(error)
    except Exception as error:
        return "failed", f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
    return "translated", ""


def shown(text: Path | str) -> str:
    """Return a path or message as one printable line, whatever bytes a file's name has."""
    text = " ".join(str(text).encode(errors="surrogateescape").decode(errors="replace").splitlines())
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def summary(jobs: list[Job]) -> str:
    """Return the table of what became of each volume, and a line of totals."""
    rows = [
        (
            shown(job.source),
            job.status or "not done",
            f"{job.seconds:.1f}",
            shown(job.message.replace(f"{job.source}: ", "")),
        )
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
