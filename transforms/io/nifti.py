"""Reading volumes (NIfTI, Analyze, FreeSurfer) with nibabel, with the checks that nibabel leaves out."""

import gzip
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from warnings import warn

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.arrayproxy import ArrayProxy
from nibabel.fileholders import FileHolder
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import SpatialHeader, SpatialImage

from transforms.io import nifti_checks as checks
from transforms.io.fetched import not_fetched
from transforms.io.nifti_checks import VolumeError

PAIR_SUFFIXES = (".hdr", ".img")
FREESURFER_SUFFIXES = (".mgz", ".mgh")
START_BYTES = 540  # length of NIfTI-2's header, enough to describe other files
MGH_BYTES = 284  # offset of the voxels in a FreeSurfer volume
DEFLATE_LARGEST_RATIO = 1032  # zlib's manual: "the limiting compression factor"
MAX_TRAILING_BYTES = 64 << 20  # behind the voxels, where little belongs
_CHUNK_BYTES = 1 << 20
_StreamClass = type[nib.Nifti1Image] | type[nib.MGHImage]
_SINGLE: dict[bytes, type[nib.Nifti1Image]] = {b"n+1": nib.Nifti1Image, b"n+2": nib.Nifti2Image}
_PAIRS: dict[bytes, type[nib.Nifti1Pair]] = {b"ni1": nib.Nifti1Pair, b"ni2": nib.Nifti2Pair}
_OTHER_FILES = {
    b"\x1f\x8b": "compressed with gzip once more; unpack it first",
    b"<": "a web page or XML; download the file again",
}


def read_nifti(source: str | Path | SpatialImage) -> tuple[np.ndarray, np.ndarray, SpatialHeader]:
    """Read a whole 3D volume with its scaling applied.

    Args:
        source: A `.nii`, `.nii.gz`, `.hdr` or `.img` file (NIfTI-1, NIfTI-2, Analyze), FreeSurfer's `.mgz` or `.mgh`,
            or a loaded nibabel image.

    Returns:
        The (X, Y, Z) float32 voxels, all finite and not all the same; the (4, 4) float64 affine, voxel to RAS
        millimetres whatever the header's unit; and nibabel's header. A 4D file with a single volume counts as 3D.

    Warns:
        UserWarning: one warning that names the file and everything doubtful: forms that are missing or disagree, a unit
            other than millimetres, scaling that is not finite, voxels that were replaced (`finite_float32`).

    Raises:
        ValueError: the file is missing, damaged, no NIfTI, or no real-valued 3D volume; the message names the file, the
            reason and the remedy.
    """
    array, affine, header, warnings = read_with_warnings(source)
    if warnings:
        warn(f"{name_of(source)}: {'; '.join(warnings)}", stacklevel=2)
    return array, affine, header


def read_with_warnings(source: str | Path | SpatialImage) -> tuple[np.ndarray, np.ndarray, SpatialHeader, list[str]]:
    """Read like `read_nifti`, but return what is doubtful, and `image.extra["warnings"]`, instead of warning of it."""
    name = name_of(source)
    with checks.nibabel_silent(), naming_errors(name):
        if isinstance(source, SpatialImage):
            image, warnings = source, source.extra.get("warnings", [])
        else:
            image, warnings = open_volume(Path(source))
        shape = checks.volume_shape(image.header, name)
        affine, grid_warnings = checks.affine_mm(image, name)
        array, value_warnings = checks.finite_float32(image, shape, name)
    return array, affine, image.header, [*value_warnings, *warnings, *grid_warnings]


def name_of(source: str | Path | SpatialImage) -> str:
    """Return a volume's name for messages."""
    return str(source) if not isinstance(source, SpatialImage) else str(source.get_filename() or "the image")


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


def open_volume(path: Path) -> tuple[SpatialImage, list[str]]:
    """Open a file after checking that it is complete; return the image, voxels not yet converted, and warnings."""
    if problem := not_fetched(path):
        raise VolumeError(problem)
    if path.is_dir():
        raise VolumeError(f"{path}: is a folder; give a .nii or .nii.gz file")
    if path.exists() and not path.is_file():
        raise VolumeError(f"{path}: is a pipe or a device; give a .nii or .nii.gz file")
    return _open_pair(path) if path.suffix.lower() in PAIR_SUFFIXES else _open_single(path)


def _open_single(path: Path) -> tuple[SpatialImage, list[str]]:
    """Read a file to the end of its stream, so that truncation and checksum errors are noticed."""
    with _decompressed(path) as (stream, most_bytes):
        # Read and repair the header.
        start = stream.read(START_BYTES)
        is_freesurfer = path.suffix.lower() in FREESURFER_SUFFIXES
        image_class, header, block, offset, warnings = (_mgh_header if is_freesurfer else _nifti_header)(start, path)
        if not is_freesurfer:
            _require_fitting_name(path, isinstance(stream, gzip.GzipFile))

        # Refuse volumes that cannot be in the file or in memory.
        required, sizes = checks.voxel_bytes(header) + offset, checks.sizes_text(checks.shape_of(header))
        if required > most_bytes:
            raise VolumeError(
                f"{path}: its header claims {sizes} voxels, more than the file can hold; "
                "it is damaged or truncated, copy or download it again"
            )
        checks.require_memory(header, 2 * required, path)  # the bytes read here, and nibabel's copy

        # Read the voxels, then what follows them to the end.
        content = io.BytesIO()
        content.write(block + start[len(block) :])
        while (missing := required - content.tell()) > 0 and (chunk := stream.read(min(missing, _CHUNK_BYTES))):
            content.write(chunk)  # never more than the file holds
        if missing > 0:
            counts = f"{required:,} bytes expected and {required - missing:,} found"
            raise VolumeError(f"{path}: truncated, {counts}; copy or download it again")
        footer = b""
        while chunk := stream.read(_CHUNK_BYTES):  # gzip verifies its checksum at the end of the stream
            footer += chunk
            if len(footer) > MAX_TRAILING_BYTES:
                limit = f"more than {MAX_TRAILING_BYTES >> 20} MiB behind its {sizes} voxels"
                raise VolumeError(f"{path}: holds {limit}; its header does not fit, convert it again")
        content.write(footer)
    content.seek(0)
    return image_class.from_stream(content), warnings


def _nifti_header(start: bytes, path: Path) -> tuple[_StreamClass, SpatialHeader, bytes, int, list[str]]:
    """Return image class, repaired header and its bytes, offset of the voxels, and warnings of a single-file NIfTI."""
    image_class = _SINGLE.get(start[344:347]) or _SINGLE.get(start[4:7])
    if image_class is None or len(start) < image_class.header_class.sizeof_hdr:
        raise VolumeError(f"{path}: not a NIfTI volume but {_describe_file(start)}")
    header_class = image_class.header_class
    header, warnings = checks.repaired_header(header_class, start[: header_class.sizeof_hdr], str(path))
    if header["vox_offset"] == 0:  # nibabel would read the header as voxels
        header["vox_offset"] = header.single_vox_offset
        warnings.append(f"its voxels begin at byte 0 by its header, taken as {header.single_vox_offset}")
    return image_class, header, header.binaryblock, _voxel_offset(header.get_data_offset(), path), warnings


def _mgh_header(start: bytes, path: Path) -> tuple[_StreamClass, SpatialHeader, bytes, int, list[str]]:
    if len(start) < MGH_BYTES or not _is_mgh(start):
        raise VolumeError(f"{path}: not a FreeSurfer volume but {_describe_file(start)}")
    header = MGHHeader(start[:MGH_BYTES], check=False)
    checks.volume_shape(header, str(path))
    has_orientation = int.from_bytes(start[28:30], "big") == 1  # goodRASFlag
    message = "its header gives no orientation; taken as FreeSurfer's default, coronal slices"
    return nib.MGHImage, header, start[:MGH_BYTES], MGH_BYTES, [] if has_orientation else [message]


def _open_pair(path: Path) -> tuple[SpatialImage, list[str]]:
    """Open a `.hdr` and `.img` pair (NIfTI or Analyze) after checking the length of the `.img`."""
    # Recognise the kind of header.
    header_path = _partner(path, ".hdr")
    with header_path.open("rb") as stream:
        start = stream.read(START_BYTES)
    image_class = _PAIRS.get(start[344:347]) or _PAIRS.get(start[4:7])
    is_analyze = 348 in (int.from_bytes(start[:4], order) for order in ("little", "big")) and start[344:346] != b"n+"
    if image_class is None and not is_analyze:
        raise VolumeError(f"{header_path}: not the header of a .hdr/.img pair but {_describe_file(start)}")

    # Open the pair, a NIfTI with a repaired header.
    voxels_path = _partner(path, ".img")
    if image_class is None:  # Analyze, with the affine that SPM may have left in a .mat beside it
        image, warnings = cast(SpatialImage, nib.load(header_path)), list[str]()
        mat = header_path.with_suffix(".mat")
        if not mat.exists() or not mat.stat().st_size:
            warnings = ["Analyze files store no orientation; taken as LAS, so check left and right"]
    else:
        size = image_class.header_class.sizeof_hdr
        header, warnings = checks.repaired_header(image_class.header_class, start[:size], str(header_path))
        header_file, voxels_file = FileHolder(fileobj=io.BytesIO(header.binaryblock)), FileHolder(str(voxels_path))
        image = image_class.from_file_map({"header": header_file, "image": voxels_file})
    checks.volume_shape(image.header, str(header_path))

    # Check the voxels' length; nibabel's header of a loaded image has lost their offset.
    offset = _voxel_offset(cast(ArrayProxy, image.dataobj).offset, header_path)
    required, present = checks.voxel_bytes(image.header) + offset, voxels_path.stat().st_size
    if required > present:
        raise VolumeError(
            f"{voxels_path}: truncated, {required:,} bytes expected and {present:,} found; copy or download it again"
        )
    checks.require_memory(image.header, required, header_path)
    return image, warnings


def _partner(path: Path, suffix: str) -> Path:
    """Return a pair's file with a suffix in lower or upper case; raise VolumeError where it is missing."""
    if path.suffix.lower() == suffix:
        return path
    for candidate in (path.with_suffix(suffix), path.with_suffix(suffix.upper())):
        if problem := not_fetched(candidate):
            raise VolumeError(problem)
        if candidate.exists():
            return candidate
    missing = path.with_suffix(suffix).name
    raise VolumeError(f"{path}: its {missing} is missing; keep the .hdr and .img files side by side")


@contextmanager
def _decompressed(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Yield the stream, unpacked whatever its name says, and the largest number of bytes it can hold."""
    with path.open("rb") as file:
        size = path.stat().st_size
        is_zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if is_zipped:
            with igzip.open(file) as stream:  # a GzipFile, three times as fast as the standard library's
                yield stream, size * DEFLATE_LARGEST_RATIO
        else:
            yield file, size


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────


def _voxel_offset(offset: float, path: Path) -> int:
    if not (math.isfinite(offset) and offset >= 0):
        raise VolumeError(f"{path}: its voxels begin at byte {offset:g}, which cannot be; convert or download it again")
    return int(offset)


def _require_fitting_name(path: Path, is_zipped: bool) -> None:
    """Raise VolumeError for a suffix that does not fit the compression, as other programs would misread the file."""
    name = path.name
    if is_zipped and name.lower().endswith(".nii"):
        raise VolumeError(f"{path}: is compressed (gzip) although its name ends in .nii; rename it to {name}.gz")
    if not is_zipped and name.lower().endswith(".nii.gz"):
        raise VolumeError(f"{path}: is not compressed although its name ends in .gz; rename it to {name[:-3]}")


def _describe_file(start: bytes) -> str:
    """Return what a file is instead, by its first bytes, with the remedy."""
    if not start:
        return "an empty file; copy or download it again"
    for prefix, description in _OTHER_FILES.items():
        if start.lstrip().startswith(prefix):
            return description
    if start[128:132] == b"DICM":
        return "a DICOM file; to translate its series give its folder, otherwise convert the series with dcm2niix"
    if _is_mgh(start):
        return "a FreeSurfer volume; give it the suffix .mgz, or .mgh where it is not compressed"
    if start[344:347] in _SINGLE or start[4:7] in _SINGLE:
        return "a single-file NIfTI; give it the suffix .nii, or copy it again where it is cut off"
    if start[344:347] in _PAIRS or start[4:7] in _PAIRS:
        return "the header of a .hdr/.img pair; unpack it if it is compressed, and give it the suffix .hdr"
    return "something else; convert it to NIfTI, or download it again"


def _is_mgh(start: bytes) -> bool:
    return start[:4] == b"\0\0\0\1" and start[20:23] == bytes(3)  # version 1, and a small number for the data type


@contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """Turn errors of the system, gzip, nibabel and numpy into VolumeErrors of one line that name the file."""
    try:
        yield
    except VolumeError:
        raise
    except FileNotFoundError as error:
        raise VolumeError(f"{name}: no such file, or a link to nowhere; check the path") from error
    except (EOFError, isal_zlib.error, gzip.BadGzipFile) as error:  # type: ignore[misc]  # isal's stub has an instance
        raise VolumeError(f"{name}: truncated or damaged gzip data ({error}); copy or download it again") from error
    except MemoryError as error:
        raise checks.TooLargeError(f"{name}: does not fit into memory; crop it or use a larger machine") from error
    except OSError as error:
        reason = error.strerror or _one_line(error)
        raise VolumeError(f"{name}: cannot be read ({reason}); check its name, permissions and disk") from error
    except Exception as error:  # whatever headers without sense make nibabel, numpy and scipy raise
        reason = _one_line(error)
        raise VolumeError(f"{name}: not a readable volume ({reason}); convert or download it again") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
