"""Which volumes a translation command is given, and where each goes."""

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
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file, is_folder, remove_stale
from pipeline.utils.paths import expanded
from pipeline.utils.texts import decoded
from transforms.io.fetched import not_fetched

FREESURFER_SUFFIXES = (".mgz", ".mgh")
FOUND_IN_FOLDERS = (".nii", ".nii.gz", ".hdr", *FREESURFER_SUFFIXES)  # a .hdr stands for its .img
PAIR_SUFFIXES = (".hdr", ".img")
WRITABLE = (".nii", ".nii.gz")
OF_OTHER_FORMATS = (".mha", ".mhd", ".nrrd", ".mgz", ".mgh", ".mnc", ".dcm", ".png")
MOST_PATH_BYTES = 4096  # Linux's PATH_MAX


def all_inputs(given: list[Path], list_file: str | None) -> list[Path]:
    """Return the files and folders named on the command line, then those that a list names.

    Args:
        given: From the command line.
        list_file: One path per line, in UTF-8, blanks at its ends left out unless they belong to a file; empty lines
            and those that begin with "#" are not paths. "-" is standard input, None no list.

    Raises:
        UserError: the list cannot be read or is no list of paths, or there is no path at all.
    """
    if list_file == "-":
        listed = _listed(sys.stdin.buffer, "standard input")
    elif list_file is not None:
        try:
            with Path(list_file).open("rb") as stream:
                listed = _listed(stream, list_file)
        except OSError as error:
            raise UserError(f"{list_file}: the list cannot be read ({error.strerror}); check the path") from error
    else:
        listed = []
    if not given and not listed:
        raise UserError("no volumes given; name files or folders with -i, or a list of them with --input-list")
    return [*given, *listed]


def _listed(stream: BinaryIO, name: str) -> list[Path]:
    paths = []
    for number, line in enumerate(_lines(stream, name), start=1):
        where = f"{name}, line {number}"
        text = _as_text(line.rstrip(b"\r\n"), where)
        if "\0" in text:
            raise UserError(f"{where}: holds a NUL byte; give a text file with one path per line")
        if len(os.fsencode(text)) > MOST_PATH_BYTES:
            raise UserError(f"{where}: is longer than a path can be; give a text file with one path per line")
        if text.strip() and not text.startswith("#"):
            bare = text.strip()  # unless the blanks belong to a file's name
            try:
                paths.append(expanded(bare if os.path.lexists(bare) and not os.path.lexists(text) else text))
            except ValueError as error:
                raise UserError(f"{where}: {error}; set it, or write the path out") from None
    return paths


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield a list's lines in UTF-8, without a byte order mark; of a list in UTF-16, as PowerShell writes it, too."""
    first = stream.readline(MOST_PATH_BYTES + 3)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        stream = io.BytesIO(decoded(first + stream.read(), name, "a list").encode(errors="surrogatepass"))
        first = stream.readline(MOST_PATH_BYTES + 3)
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from iter(lambda: stream.readline(MOST_PATH_BYTES + 3), b"")


def _as_text(line: bytes, where: str) -> str:
    """Return a line as text: UTF-8, or the name of something that is there, as other programs wrote it."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        if os.path.lexists(name := os.fsdecode(line)):
            return name
        byte = f"byte 0x{line[error.start]:02x}"
        raise UserError(
            f"{where}: {byte} is not UTF-8 (Latin-1, perhaps), and no file is called so; save the list as UTF-8, one "
            "path per line"
        ) from error


def plan(inputs: list[Path], out: Path) -> list[Job]:
    """Return what is to be translated to where, in order; no volume is read and nothing written.

    What cannot be one volume has failed already, so that the others are still made.

    Raises:
        UserError: the only folder holds no volumes, OUT does not fit IN, or a source would be overwritten.
    """
    _require_name(out)
    one = len(inputs) == 1 and (not is_folder(inputs[0]) or holds_dicom(inputs[0]))
    if one and _is_volume(out, WRITABLE) and not is_folder(out):
        jobs = [Job(inputs[0], out)]
    else:
        if _is_volume(out, WRITABLE) or is_file(out):
            raise UserError(f"{out}: is one file's name, and there may be several volumes; give a folder as OUT")
        found = {source: below for given in inputs for source, below in _volumes(given, out)}
        jobs = _placed(found, out)
        _require_below(out, jobs)
        if (
            len(inputs) == 1
            and [job.source for job in jobs if job.status == FAILED and is_folder(job.source)] == inputs
        ):
            raise UserError(_without_volumes(inputs[0]))
    sources = {real(job.source) for job in jobs}
    for job in jobs:
        if real(job.target) in sources:
            raise UserError(f"{job.target}: OUT would overwrite a source; choose another folder")
    return jobs


def _require_name(out: Path) -> None:
    """Refuse the name of a pair or of another format's volume as OUT, which would become a folder."""
    if out.suffix.lower() in (*PAIR_SUFFIXES, *OF_OTHER_FORMATS) and not is_folder(out):
        raise UserError(f"{out}: volumes are written as .nii or .nii.gz; choose such a name, or a folder")


def real(path: Path) -> Path:
    """Return the path without links; unlike `Path.resolve`, links that run in a circle do not raise."""
    return Path(os.path.realpath(path))


def plain(path: Path) -> Path:
    """Return the absolute path without `..`, links kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _require_below(out: Path, jobs: list[Job]) -> None:
    for job in jobs:
        if plain(out) not in plain(job.target).parents:
            raise UserError(f"{job.source}: its translation would lie outside {out}; give its path without ..")


def _is_volume(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)


def _volumes(given: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return a file, or a folder's volumes, each with its path below OUT; what lies in OUT itself is left out.

    What is missing or cannot be read is returned too: it fails when its turn comes.
    """
    if not is_folder(given):
        return [(given, Path(given.name))]
    if real(out) == real(given):
        raise UserError(f"{out}: OUT is the folder of the sources; choose another one")
    own_name = Path(real(given).name)
    found = [(path, path.relative_to(given) if path != given else own_name) for path in _walk(given, real(out), ())]
    return found or [(given, own_name)]


def _walk(folder: Path, out: Path, above: tuple[Path, ...]) -> list[Path]:
    """List the volumes and DICOM folders in a folder and below, sorted; hidden entries are left out.

    Links are followed, but not in circles; those that lead nowhere are listed, to fail by name.
    """
    here = real(folder)
    if here == out or here in above:
        return []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return [folder]
    found = [folder] if holds_dicom(folder) else []
    for path in entries:
        if path.name.startswith("."):
            continue
        named_so = _is_volume(path, FOUND_IN_FOLDERS)
        if is_folder(path):
            below = _walk(path, out, (*above, here))
            found += below or ([path] if named_so and real(path) != out else [])
        elif named_so:
            found.append(path)
    return found


def _placed(found: dict[Path, Path], out: Path) -> list[Job]:
    """Give every source a target of its own below OUT."""
    unique = {_identity(source): source for source in reversed(found)}
    sources = list(reversed(unique.values()))
    targets = [out / _as_nifti(source, found[source]) for source in sources]
    if len({without_suffix(target) for target in targets}) < len(targets):
        absolute = [plain(source) for source in sources]
        common = next(folder for folder in absolute[0].parents if all(folder in path.parents for path in absolute))
        targets = [out / _as_nifti(path, path.relative_to(common)) for path in absolute]
    jobs = [Job(source, target) for source, target in zip(sources, targets, strict=True)]
    for job in jobs:
        if is_folder(job.source) and not holds_dicom(job.source):
            job.status, job.error = FAILED, _without_volumes(job.source)
    fail_equal_names(jobs)
    return jobs


def _identity(source: Path) -> Path:
    """Return what two ways to write one volume's name have in common; a pair is its .hdr.

    Links stay: two names that lead to one file, as two subjects' in a store of contents, are two volumes.
    """
    if source.suffix.lower() == ".img":
        for suffix in (".hdr", ".HDR"):
            if is_file(header := source.with_suffix(suffix)):
                return plain(header)
    return plain(source)


def _without_volumes(folder: Path) -> str:
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"{folder}: this folder cannot be listed; check its permissions"
    if elsewhere := next(filter(None, map(not_fetched, sorted(folder.iterdir()))), None):
        return elsewhere
    return f"{folder}: no .nii, .nii.gz or .mgz files in this folder, and no DICOM series; check the path"


def fail_equal_names(jobs: list[Job]) -> None:
    """Fail those whose targets would be one volume: the same, or names that differ in `.gz` alone."""
    same: dict[str, list[Job]] = {}
    for job in jobs:
        same.setdefault(without_suffix(job.target), []).append(job)
    for twins in (twins for twins in same.values() if len(twins) > 1):
        names = " and ".join(twin.source.name for twin in twins)
        for job in twins:
            job.status = FAILED
            job.error = f"{job.source}: {names} would be one volume; move one away, or translate them separately"


def without_suffix(path: Path) -> str:
    """Return a volume's path without `.nii` or `.nii.gz`."""
    suffix = next((suffix for suffix in sorted(WRITABLE, key=len)[::-1] if _is_volume(path, (suffix,))), "")
    return str(path)[: len(str(path)) - len(suffix)]


def _as_nifti(source: Path, below: Path) -> Path:
    if is_folder(source):  # a DICOM series, whose folder's name may have dots
        return below.with_name(f"{below.name}.nii.gz")
    if _is_volume(below, WRITABLE):
        return below
    other = below.suffix.lower() in (*PAIR_SUFFIXES, *FREESURFER_SUFFIXES)
    return below.with_name(f"{below.stem if other else below.name}.nii.gz")


def require_writable(folder: Path) -> None:
    """Try to write where a folder is or would be made; raises UserError where nothing can be written there."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another OUT") from error


def clear_leftovers(jobs: list[Job]) -> None:
    """Remove what killed commands left half-written where these jobs will write."""
    for folder in {job.target.parent for job in jobs}:
        if is_folder(folder):
            remove_stale(folder, below=False)
