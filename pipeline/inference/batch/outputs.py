"""The volumes that a translation command reads, and the path of each translation."""

import codecs
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.inference.batch.dicom_folders import holds_dicom
from pipeline.inference.batch.jobs import FAILED, Job
from pipeline.utils.arguments import expanded
from pipeline.utils.errors import UserError
from pipeline.utils.files import decoded, is_file, is_folder, remove_stale
from transforms.io.fetched import not_fetched

FREESURFER_SUFFIXES = (".mgz", ".mgh")
INPUT_SUFFIXES = (".nii", ".nii.gz", ".hdr", *FREESURFER_SUFFIXES)  # a .hdr stands for its .img
PAIR_SUFFIXES = (".hdr", ".img")
WRITABLE = (".nii", ".nii.gz")
OTHER_SUFFIXES = (".mha", ".mhd", ".nrrd", ".mgz", ".mgh", ".mnc", ".dcm", ".png")
MAX_PATH_BYTES = 4096  # Linux's PATH_MAX
LEFTOVER_AGE_S = 3600.0  # a younger temporary file may be another process's, at work in the same folder


def all_inputs(inputs: list[Path], list_file: str | None) -> list[Path]:
    """Return the files and folders named on the command line, then those that a list names.

    Args:
        inputs: The paths from the command line.
        list_file: A file with one path per line, in UTF-8; "-" is standard input, None no list. Empty lines and lines
            that begin with "#" are skipped. Blanks at a line's ends are removed, unless a file is called so.

    Raises:
        UserError: the list cannot be read or is no list of paths, or there is no path at all.
    """
    if list_file == "-":
        listed_paths = _read_list(sys.stdin.buffer, "standard input")
    elif list_file is not None:
        try:
            with Path(list_file).open("rb") as stream:
                listed_paths = _read_list(stream, list_file)
        except OSError as error:
            raise UserError(f"{list_file}: the list cannot be read ({error.strerror}); check the path") from error
    else:
        listed_paths = []
    if not inputs and not listed_paths:
        raise UserError("no volumes given; name files or folders with -i, or a list of them with --input-list")
    return [*inputs, *listed_paths]


def _read_list(stream: BinaryIO, name: str) -> list[Path]:
    paths = []
    for number, line in enumerate(_list_lines(stream, name), start=1):
        location = f"{name}, line {number}"
        text = _decoded_line(line.rstrip(b"\r\n"), location)
        if "\0" in text:
            raise UserError(f"{location}: holds a NUL byte; give a text file with one path per line")
        if len(os.fsencode(text)) > MAX_PATH_BYTES:
            raise UserError(f"{location}: is longer than a path can be; give a text file with one path per line")
        if text.strip() and not text.startswith("#"):
            try:
                whole, bare = expanded(text), expanded(text.strip())  # the blanks may belong to a file's name
                paths.append(bare if os.path.lexists(bare) and not os.path.lexists(whole) else whole)
            except ValueError as error:
                raise UserError(f"{location}: {error}; set it, or write the path out") from None
    return paths


def _list_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield a list's lines in UTF-8, without a byte order mark. Lists in UTF-16, from PowerShell, are converted."""
    line = stream.readline(MAX_PATH_BYTES + 3)
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        stream = io.BytesIO(decoded(line + stream.read(), name, "a list").encode(errors="surrogatepass"))
        line = stream.readline(MAX_PATH_BYTES + 3)
    yield line.removeprefix(codecs.BOM_UTF8)
    yield from iter(lambda: stream.readline(MAX_PATH_BYTES + 3), b"")


def _decoded_line(line: bytes, location: str) -> str:
    """Return a line as text: UTF-8, or the name of an existing file in another encoding."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        if os.path.lexists(name := os.fsdecode(line)):
            return name
        byte = f"byte 0x{line[error.start]:02x}"
        raise UserError(
            f"{location}: {byte} is not UTF-8 (Latin-1, perhaps), and no file is called so; save the list as UTF-8, "
            "one path per line"
        ) from error


def plan_jobs(inputs: list[Path], output: Path) -> list[Job]:
    """Return a job for every volume of the inputs, in order; no volume is read and nothing written.

    Sources that cannot become a volume of their own have failed already, so that the others are still translated.

    Raises:
        UserError: the only folder holds no volumes, OUT does not fit IN, or a source would be overwritten.
    """
    _require_output_name(output)
    is_single = len(inputs) == 1 and (not is_folder(inputs[0]) or holds_dicom(inputs[0]))

    # One volume to one file, or several volumes to a folder.
    if is_single and _is_volume(output, WRITABLE) and not is_folder(output):
        jobs = [Job(inputs[0], output)]
    else:
        if _is_volume(output, WRITABLE) or is_file(output):
            raise UserError(f"{output}: is one file's name, and there may be several volumes; give a folder as OUT")
        volumes = {source: relative for entry in inputs for source, relative in _find_volumes(entry, output)}
        jobs = _jobs_below(volumes, output)
        _require_inside(output, jobs)
        if (
            len(inputs) == 1
            and [job.source for job in jobs if job.status == FAILED and is_folder(job.source)] == inputs
        ):
            raise UserError(_no_volumes_message(inputs[0]))

    # No target is a source.
    sources = {real_path(job.source) for job in jobs}
    for job in jobs:
        if real_path(job.target) in sources:
            raise UserError(f"{job.target}: OUT would overwrite a source; choose another folder")
    return jobs


def _require_output_name(output: Path) -> None:
    """Refuse an OUT with the suffix of a pair or of another format, which would become a folder."""
    if output.suffix.lower() in (*PAIR_SUFFIXES, *OTHER_SUFFIXES) and not is_folder(output):
        raise UserError(f"{output}: volumes are written as .nii or .nii.gz; choose such a name, or a folder")


def real_path(path: Path) -> Path:
    """Return the path with links resolved; unlike `Path.resolve`, circular links do not raise."""
    return Path(os.path.realpath(path))


def absolute_path(path: Path) -> Path:
    """Return the absolute path without `..`, links kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _require_inside(output: Path, jobs: list[Job]) -> None:
    for job in jobs:
        if absolute_path(output) not in absolute_path(job.target).parents:
            raise UserError(f"{job.source}: its translation would lie outside {output}; give its path without ..")


def _is_volume(path: Path, suffixes: tuple[str, ...]) -> bool:
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
    volumes = [
        (path, path.relative_to(entry) if path != entry else name)
        for path in _find_in_folder(entry, real_path(output), ())
    ]
    return volumes or [(entry, name)]


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
        has_volume_name = _is_volume(path, INPUT_SUFFIXES)
        if is_folder(path):
            nested = _find_in_folder(path, output, (*parents, real_folder))
            volumes += nested or ([path] if has_volume_name and real_path(path) != output else [])
        elif has_volume_name:
            volumes.append(path)
    return volumes


def _jobs_below(volumes: dict[Path, Path], output: Path) -> list[Job]:
    """Return jobs that give every source its own target below OUT."""
    unique = {_volume_identity(source): source for source in reversed(volumes)}
    sources = list(reversed(unique.values()))
    targets = [output / _nifti_name(source, volumes[source]) for source in sources]
    if len({without_suffix(target) for target in targets}) < len(targets):
        absolute = [absolute_path(source) for source in sources]
        common = next(folder for folder in absolute[0].parents if all(folder in path.parents for path in absolute))
        targets = [output / _nifti_name(path, path.relative_to(common)) for path in absolute]
    jobs = [Job(source, target) for source, target in zip(sources, targets, strict=True)]
    for job in jobs:
        if is_folder(job.source) and not holds_dicom(job.source):
            job.status, job.error = FAILED, _no_volumes_message(job.source)
    fail_equal_names(jobs)
    return jobs


def _volume_identity(source: Path) -> Path:
    """Return a path that is equal for two spellings of one volume; a pair is its .hdr.

    Links are not resolved: two names that link to one file, as in git-annex, are two volumes.
    """
    if source.suffix.lower() == ".img":
        for suffix in (".hdr", ".HDR"):
            if is_file(header := source.with_suffix(suffix)):
                return absolute_path(header)
    return absolute_path(source)


def _no_volumes_message(folder: Path) -> str:
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"{folder}: this folder cannot be listed; check its permissions"
    if reason := next(filter(None, map(not_fetched, sorted(folder.iterdir()))), None):
        return reason
    return f"{folder}: no .nii, .nii.gz or .mgz files in this folder, and no DICOM series; check the path"


def fail_equal_names(jobs: list[Job]) -> None:
    """Fail jobs whose targets would be one volume: the same path, or paths that differ in `.gz` alone."""
    jobs_by_name: dict[str, list[Job]] = {}
    for job in jobs:
        jobs_by_name.setdefault(without_suffix(job.target), []).append(job)
    for duplicates in (duplicates for duplicates in jobs_by_name.values() if len(duplicates) > 1):
        names = " and ".join(duplicate.source.name for duplicate in duplicates)
        for job in duplicates:
            job.status = FAILED
            job.error = f"{job.source}: {names} would be one volume; move one away, or translate them separately"


def without_suffix(path: Path) -> str:
    """Return a volume's path without `.nii` or `.nii.gz`."""
    suffix = next((suffix for suffix in sorted(WRITABLE, key=len)[::-1] if _is_volume(path, (suffix,))), "")
    return str(path)[: len(str(path)) - len(suffix)]


def _nifti_name(source: Path, relative: Path) -> Path:
    if is_folder(source):  # a DICOM series, whose folder's name may have dots
        return relative.with_name(f"{relative.name}.nii.gz")
    if _is_volume(relative, WRITABLE):
        return relative
    has_other_suffix = relative.suffix.lower() in (*PAIR_SUFFIXES, *FREESURFER_SUFFIXES)
    return relative.with_name(f"{relative.stem if has_other_suffix else relative.name}.nii.gz")


def require_writable(folder: Path) -> None:
    """Raise UserError where nothing can be written in a folder, or in the parent in which it would be made."""
    try:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another OUT") from error


def clear_leftovers(jobs: list[Job]) -> None:
    """Remove temporary files that killed commands left in these jobs' output folders."""
    for folder in {job.target.parent for job in jobs}:
        if is_folder(folder):
            remove_stale(folder, below=False, older_than_s=LEFTOVER_AGE_S)
