"""The volumes that a translation command reads, and the paths of what it makes of each."""

import os
import sys
from pathlib import Path

from pipeline.inference.batch.dicom_folders import holds_dicom
from pipeline.inference.batch.jobs import FAILED, Job
from pipeline.inference.batch.provenance import PAIR_SUFFIXES
from pipeline.utils.arguments import expanded
from pipeline.utils.errors import UserError
from pipeline.utils.files import LEFTOVER_AGE_S, is_file, is_folder, remove_stale
from transforms.io.fetched import not_fetched

FREESURFER_SUFFIXES = (".mgz", ".mgh")
WRITABLE = (".nii.gz", ".nii")
INPUT_SUFFIXES = (*WRITABLE, ".hdr", *FREESURFER_SUFFIXES)  # a .hdr stands for its .img
OTHER_SUFFIXES = (*PAIR_SUFFIXES, *FREESURFER_SUFFIXES, ".mha", ".mhd", ".nrrd", ".mnc", ".dcm", ".png")
UNCERTAINTY = "uncertainty"  # in the names of maps of the expected error


def all_inputs(inputs: list[Path], list_file: str | None) -> list[Path]:
    """Return the files and folders named on the command line, then those in a list: one a line, UTF-8, "#" comments.

    `list_file` is "-" for standard input, None for no list. Raises UserError for an unreadable list and for no path.
    """
    listed_paths = [] if list_file is None else _read_list(list_file)
    if not inputs and not listed_paths:
        raise UserError("no volumes given; name files or folders with -i, or a list of them with --input-list")
    return [*inputs, *listed_paths]


def _read_list(list_file: str) -> list[Path]:
    try:
        content = sys.stdin.buffer.read() if list_file == "-" else Path(list_file).read_bytes()
    except OSError as error:
        raise UserError(f"{list_file}: the list cannot be read ({error.strerror}); check the path") from error
    if b"\0" in content:
        raise UserError(f"{list_file}: is no text in UTF-8; give one path per line")
    text = content.decode("utf-8-sig", errors="surrogateescape")  # a file's name may be in another encoding
    lines = [line.strip() for line in text.split("\n")]
    try:
        return [expanded(line) for line in lines if line and not line.startswith("#")]
    except ValueError as error:
        raise UserError(f"{list_file}: {error}; set it, or write the path out") from None


# ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────


def plan_jobs(inputs: list[Path], output: Path) -> list[Job]:
    """Return a job for every volume of the inputs, in order; those of sources that clash or hold nothing have failed.

    Raises:
        UserError: the only folder holds no volumes, OUT does not fit IN, or a source would be overwritten.
    """
    if output.suffix.lower() in OTHER_SUFFIXES and not is_folder(output):
        raise UserError(f"{output}: volumes are written as .nii or .nii.gz; choose such a name, or a folder")
    is_single = len(inputs) == 1 and (not is_folder(inputs[0]) or holds_dicom(inputs[0]))

    # One volume to one file, or several volumes to a folder.
    if is_single and _has_suffix(output, WRITABLE) and not is_folder(output):
        jobs = [Job(inputs[0], output)]
    else:
        if _has_suffix(output, WRITABLE) or is_file(output):
            raise UserError(f"{output}: is one file's name, and there may be several volumes; give a folder as OUT")
        volumes = {source: relative for entry in inputs for source, relative in _find_volumes(entry, output)}
        jobs = _jobs_below(volumes, output)
        if len(inputs) == 1 and any(job.status == FAILED and job.source == inputs[0] for job in jobs):
            raise UserError(jobs[0].error)

    # No target is a source.
    sources = {real_path(job.source) for job in jobs}
    for job in jobs:
        if real_path(job.target) in sources:
            raise UserError(f"{job.target}: OUT would overwrite a source; choose another folder")
    return jobs


def real_path(path: Path) -> Path:
    """Return the path with links resolved; unlike `Path.resolve`, circular links do not raise."""
    return Path(os.path.realpath(path))


def absolute_path(path: Path) -> Path:
    """Return the absolute path without `..`, links kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)


def _find_volumes(entry: Path, output: Path) -> list[tuple[Path, Path]]:
    """Return a file, or a folder's volumes, each with its path below OUT; volumes in OUT itself are left out.

    Paths that are missing or cannot be read are returned too: their jobs fail.
    """
    if not is_folder(entry):
        return [(entry, Path(entry.name))]
    if real_path(output) == real_path(entry):
        raise UserError(f"{output}: OUT is the folder of the sources; choose another one")
    name = Path(real_path(entry).name)
    volumes = _find_in_folder(entry, real_path(output), ())
    return [(path, path.relative_to(entry) if path != entry else name) for path in volumes] or [(entry, name)]


def _find_in_folder(folder: Path, output: Path, parents: tuple[Path, ...]) -> list[Path]:
    """Return the volumes and DICOM folders in a folder and below, sorted, without hidden entries.

    Links are followed, but not in circles; broken ones are returned, so that their jobs fail.
    """
    real_folder = real_path(folder)
    if real_folder == output or real_folder in parents:
        return []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return [folder]
    volumes = [folder] if holds_dicom(folder) else []
    for path in entries:
        if path.name.startswith("."):
            continue
        has_volume_name = _has_suffix(path, INPUT_SUFFIXES)
        if is_folder(path):
            nested = _find_in_folder(path, output, (*parents, real_folder))
            volumes += nested or ([path] if has_volume_name and real_path(path) != output else [])
        elif has_volume_name:
            volumes.append(path)
    return volumes


def _jobs_below(volumes: dict[Path, Path], output: Path) -> list[Job]:
    """Return jobs that give every source its own target below OUT."""
    # The first spelling of each volume; names that link to one file, as in git-annex, are several volumes.
    unique: dict[Path, Path] = {}
    for source in volumes:
        unique.setdefault(absolute_path(_pair_header(source)), source)
    sources = list(unique.values())

    # Below OUT the path below IN, or, where two would meet, below the folder that all have in common. It does not
    # help scans that differ in their suffix alone.
    targets = [output / _nifti_name(source, volumes[source]) for source in sources]
    absolute = [absolute_path(source) for source in sources]
    scans: dict[str, set[str]] = {}
    for target, path in zip(targets, absolute, strict=True):
        scans.setdefault(without_suffix(target), set()).add(without_suffix(_nifti_name(path, path)))
    if any(len(names) > 1 for names in scans.values()):
        common = Path(os.path.commonpath([path.parent for path in absolute]))
        targets = [output / _nifti_name(path, path.relative_to(common)) for path in absolute]
    jobs = [Job(source, target) for source, target in zip(sources, targets, strict=True)]
    for job in jobs:
        if is_folder(job.source) and not holds_dicom(job.source):
            job.status, job.error = FAILED, _no_volumes_message(job.source)
    fail_equal_names(jobs)
    return jobs


def _pair_header(source: Path) -> Path:
    """Return the `.hdr` of a pair's `.img`, and other paths as they are."""
    headers = [source.with_suffix(suffix) for suffix in (".hdr", ".HDR")] if source.suffix.lower() == ".img" else []
    return next(filter(is_file, headers), source)


def _no_volumes_message(folder: Path) -> str:
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"{folder}: this folder cannot be listed; check its permissions"
    if reason := next(filter(None, map(not_fetched, sorted(folder.iterdir()))), None):
        return reason
    return f"{folder}: no volumes ({', '.join(INPUT_SUFFIXES)}) in this folder, and no DICOM series; check the path"


def fail_equal_names(jobs: list[Job]) -> None:
    """Fail jobs whose targets would be one volume: the same path, or paths that differ in `.gz` alone."""
    jobs_by_name: dict[str, list[Job]] = {}
    for job in jobs:
        jobs_by_name.setdefault(without_suffix(job.target), []).append(job)
    for twins in jobs_by_name.values():
        names = " and ".join(twin.source.name for twin in twins)
        for job in twins if len(twins) > 1 else ():
            job.fail(f"{names} would be one volume; move one away, or translate them separately")


def without_suffix(path: Path) -> str:
    """Return a volume's path without `.nii` or `.nii.gz`."""
    suffix = next((suffix for suffix in WRITABLE if _has_suffix(path, (suffix,))), "")
    return str(path)[: len(str(path)) - len(suffix)]


def _nifti_name(source: Path, relative: Path) -> Path:
    if is_folder(source):  # a DICOM series, whose folder's name may have dots
        return relative.with_name(f"{relative.name}.nii.gz")
    if _has_suffix(relative, WRITABLE):
        return relative
    has_other_suffix = relative.suffix.lower() in (*PAIR_SUFFIXES, *FREESURFER_SUFFIXES)
    return relative.with_name(f"{relative.stem if has_other_suffix else relative.name}.nii.gz")


# ── maps of the expected error ──────────────────────────────────────────────────────────────────────────────


def plan_uncertainty_maps(jobs: list[Job], *, bids: bool, wanted: bool) -> None:
    """Set every job's map beside its target: `X_uncertainty.nii.gz`, in BIDS `…_desc-synthuncertainty_T2w.nii.gz`.

    A job whose map would have the name of another job's target fails. Where no maps are wanted, each job records the
    path of an earlier command's map, which is removed when the volume is replaced.
    """
    sources = {real_path(job.source) for job in jobs}
    targets = {without_suffix(job.target) for job in jobs}
    for job in jobs:
        path = _map_path(job.target, bids=bids)
        is_source, is_target = real_path(path) in sources, without_suffix(path) in targets
        if not wanted:
            job.outdated = None if is_source or is_target else path
            continue
        job.uncertainty = path
        if is_source:
            raise UserError(f"{path}: the uncertainty's map would overwrite a source; choose another OUT")
        if is_target:
            job.fail(f"its map would be another volume, {path.name}; move one away")


def _map_path(target: Path, *, bids: bool) -> Path:
    stem = Path(without_suffix(target)).name
    suffix = target.name[len(stem) :]
    if bids:
        entities, _, contrast = stem.rpartition("_")  # the last entity is desc-…synth
        return target.with_name(f"{entities}{UNCERTAINTY}_{contrast}{suffix}")
    return target.with_name(f"{stem}_{UNCERTAINTY}{suffix}")


# ── the disk ────────────────────────────────────────────────────────────────────────────────────────────────


def clear_leftovers(jobs: list[Job]) -> None:
    """Remove temporary files that killed commands left in these jobs' output folders."""
    for folder in {job.target.parent for job in jobs}:
        if is_folder(folder):
            remove_stale(folder, below=False, older_than_s=LEFTOVER_AGE_S)
