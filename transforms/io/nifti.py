"""Reading NIfTI volumes with nibabel, with the checks that nibabel leaves out."""

import errno
import gzip
import io
import math
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import FileBasedHeader, ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError, SpatialImage
from nibabel.wrapstruct import WrapStructError

from transforms.io.fetched import not_fetched
from transforms.io.memory import free_memory
from transforms.io.nifti_header import TooLargeError, VolumeError, affine_mm, shape_text, volume_shape, voxel_bytes
from transforms.io.nifti_kinds import describe_file, is_analyze_header
from transforms.io.nifti_log import nibabel_silent
from transforms.io.nifti_mgh import read_mgh
from transforms.io.nifti_repair import repaired_header
from transforms.io.nifti_values import finite_float32

PAIR_SUFFIXES = (".hdr", ".img")
FREESURFER_SUFFIXES = (".mgz", ".mgh")
DEFLATE_LARGEST_RATIO = 1032  # zlib's manual: "the limiting compression factor"
MAX_TRAILING_BYTES = 64 << 20  # behind the voxels, where nothing belongs
_CHUNK_BYTES = 1 << 20


def read_nifti(source: str | Path | SpatialImage) -> tuple[np.ndarray, np.ndarray, FileBasedHeader]:
    """Read a whole 3D volume with its scaling applied.

    Args:
        source: A `.nii`, `.nii.gz`, `.hdr` or `.img` file (NIfTI-1, NIfTI-2, Analyze), FreeSurfer's `.mgz` or `.mgh`,
            or a loaded nibabel image.

    Returns:
        The (X, Y, Z) float32 voxels, all finite and not all the same; the (4, 4) float64 affine, voxel to RAS
        millimetres whatever the header's unit; and nibabel's header. A 4D file with a single volume counts as 3D.

    Warns:
        UserWarning: one warning that names the file and everything doubtful: forms that are missing or disagree, a unit
            other than millimetres, scaling that is not finite, voxels replaced or scaled (`finite_float32`).

    Raises:
        ValueError: the file is missing, damaged, no NIfTI, or no real-valued 3D volume; the message names the file, the
            reason and the remedy.
    """
    array, affine, header, cautions = read_with_cautions(source)
    if cautions:
        warnings.warn(f"{name_of(source)}: {'; '.join(cautions)}", stacklevel=2)
    return array, affine, header


def read_with_cautions(source: str | Path | SpatialImage) -> tuple[np.ndarray, np.ndarray, FileBasedHeader, list[str]]:
    """Read like `read_nifti`, but return what is doubtful, and `image.extra["cautions"]`, instead of warning of it."""
    name = name_of(source)
    with nibabel_silent():
        if isinstance(source, SpatialImage):
            with _naming_errors(name):
                image, shape, cautions = source, volume_shape(source.header, name), source.extra.get("cautions", [])
        else:
            with _naming_errors(name):
                image, cautions = _open(Path(source))
                shape = volume_shape(image.header, name)
        with _naming_errors(name):
            affine, grid_cautions = affine_mm(image, name)
            array, value_cautions = finite_float32(image, shape, name)
    return array, affine, image.header, [*value_cautions, *cautions, *grid_cautions]


def name_of(source: str | Path | SpatialImage) -> str:
    """Return a volume's name for messages."""
    return str(source) if not isinstance(source, SpatialImage) else str(source.get_filename() or "the image")


def _open(path: Path) -> tuple[SpatialImage, list[str]]:
    """Open a file after checking that it is complete; return the image, voxels not yet converted, and cautions."""
    if problem := not_fetched(path):
        raise VolumeError(problem)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise VolumeError(f"{path}: is a link to {path.readlink()}, which is not there; mend the link") from None
        raise VolumeError(f"{path}: no such file; check the path") from None
    if stat.S_ISDIR(mode):
        raise VolumeError(f"{path}: is a folder; give a .nii or .nii.gz file")
    if not stat.S_ISREG(mode):
        raise VolumeError(f"{path}: is a pipe or a device; give a .nii or .nii.gz file")
    if path.suffix.lower() in FREESURFER_SUFFIXES:
        with _decompressed(path) as (stream, most_bytes):
            return read_mgh(path, stream, most_bytes, _require_memory)
    return _open_pair(path) if path.suffix.lower() in PAIR_SUFFIXES else _open_single(path)


def _open_single(path: Path) -> tuple[SpatialImage, list[str]]:
    """Read a single-file NIfTI to the end of its stream, so that truncation and checksum errors are noticed."""
    with _decompressed(path) as (stream, most_bytes):
        # Read and repair the header.
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
        zipped = isinstance(stream, gzip.GzipFile)
        image_class = _image_class(start, path, zipped)
        _require_fitting_name(path, zipped)
        size = image_class.header_class.sizeof_hdr
        header, cautions = repaired_header(image_class.header_class, start[:size], str(path))
        if header["vox_offset"] == 0:  # nibabel would read the header as voxels
            header["vox_offset"] = header.single_vox_offset
            cautions = [*cautions, f"its voxels begin at byte 0 by its header, taken as {header.single_vox_offset}"]

        # Refuse volumes that cannot be in the file or in memory.
        required = _required_bytes(header, path)
        if required > most_bytes:
            raise VolumeError(
                f"{path}: its header claims {shape_text(header.get_data_shape())} voxels, more than the file can "
                "hold; it is damaged or truncated, copy or download it again"
            )
        _require_memory(header, 2 * required, path)  # the bytes read here, and nibabel's copy

        # Read the voxels, then what follows them to the end.
        content = io.BytesIO()
        content.write(header.binaryblock)
        content.write(start[size:])
        missing = required - len(start)
        while missing > 0 and (chunk := stream.read(min(missing, _CHUNK_BYTES))):  # never more than the file holds
            content.write(chunk)
            missing -= len(chunk)
        if missing > 0:
            counts = f"{required:,} bytes expected and {required - missing:,} found"
            raise VolumeError(f"{path}: truncated, {counts}; copy or download it again")
        trailing = 0
        while chunk := stream.read(_CHUNK_BYTES):  # gzip verifies its checksum at the end of the stream
            trailing += len(chunk)
            if trailing > MAX_TRAILING_BYTES:
                raise VolumeError(
                    f"{path}: holds more than {MAX_TRAILING_BYTES >> 20} MiB behind its "
                    f"{shape_text(header.get_data_shape())} voxels; its header does not fit, convert it again"
                )
    content.seek(0)
    return image_class.from_stream(content), cautions


def _open_pair(path: Path) -> tuple[SpatialImage, list[str]]:
    """Open a `.hdr` and `.img` pair (NIfTI or Analyze) after checking the length of the `.img`."""
    # Recognise the kind of header.
    header_path = _partner(path, ".hdr")
    with header_path.open("rb") as stream:
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
    pairs = {b"ni1": nib.Nifti1Pair, b"ni2": nib.Nifti2Pair}
    image_class = pairs.get(start[344:347]) or pairs.get(start[4:7])
    if image_class is None and not is_analyze_header(start):
        raise VolumeError(f"{header_path}: not the header of a .hdr/.img pair but {describe_file(start)}")

    # Open the pair with a repaired header.
    voxels_path = _partner(path, ".img")
    if image_class is None:
        image, cautions = _open_analyze(header_path)
    else:
        size = image_class.header_class.sizeof_hdr
        header, cautions = repaired_header(image_class.header_class, start[:size], str(header_path))
        files = {
            "header": FileHolder(fileobj=io.BytesIO(header.binaryblock)),
            "image": FileHolder(filename=str(voxels_path)),
        }
        image = image_class.from_file_map(files)
    volume_shape(image.header, str(header_path))

    # Check the voxels' length; nibabel's header of a loaded image has lost their offset.
    required, present = voxel_bytes(image.header) + int(image.dataobj.offset), voxels_path.stat().st_size
    if required > present:
        raise VolumeError(
            f"{voxels_path}: truncated, {required:,} bytes expected and {present:,} found; copy or download it again"
        )
    _require_memory(image.header, required, header_path)
    return image, cautions


def _open_analyze(path: Path) -> tuple[SpatialImage, list[str]]:
    """Open an Analyze pair, with the affine that SPM may have left in a `.mat` beside it."""
    mat = path.with_suffix(".mat")
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always", UserWarning)
        try:
            image = nib.load(path)
        except Exception as error:  # whatever scipy raises for bytes that are no MATLAB file
            if not mat.exists() or isinstance(error, OSError | MemoryError | ImageFileError | HeaderDataError):
                raise
            raise VolumeError(
                f"{path}: the affine in {mat.name} beside it cannot be read ({_one_line(error)}); write that file "
                "again with SPM, or move it away to have the volume taken as LAS"
            ) from error
    return image, [f"{mat.name}: {record.message}" for record in records if issubclass(record.category, UserWarning)]


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


def _required_bytes(header: FileBasedHeader, path: Path) -> int:
    """Return the size that the file with the voxels must have at least."""
    offset = float(header.get_data_offset())
    if not (np.isfinite(offset) and offset >= 0):
        raise VolumeError(f"{path}: its voxels begin at byte {offset:g}, which cannot be; convert or download it again")
    return voxel_bytes(header) + int(offset)


def _require_memory(header: FileBasedHeader, held: int, path: Path) -> None:
    """Raise TooLargeError unless `held` bytes of the file and the float32 voxels fit into free memory."""
    shape = header.get_data_shape()
    needed = held + 4 * math.prod(int(length) for length in shape)
    free = free_memory(needed)
    if needed > free:
        raise TooLargeError(
            f"{path}: does not fit into memory, its {shape_text(shape)} voxels need {needed / 1e9:.3g} GB and "
            f"{free / 1e9:.3g} GB are free; crop it or use a larger machine"
        )


def _require_fitting_name(path: Path, zipped: bool) -> None:
    """Raise VolumeError for a suffix that does not fit the compression, as other programs would misread the file."""
    name = path.name
    if zipped and name.lower().endswith(".nii"):
        raise VolumeError(f"{path}: is compressed (gzip) although its name ends in .nii; rename it to {name}.gz")
    if not zipped and name.lower().endswith(".nii.gz"):
        raise VolumeError(f"{path}: is not compressed although its name ends in .gz; rename it to {name[:-3]}")


@contextmanager
def _decompressed(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Yield the stream, unpacked whatever its name says, and the largest number of bytes it can hold."""
    with path.open("rb") as raw:
        size = path.stat().st_size
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if zipped:
            with igzip.open(raw) as stream:  # a GzipFile, three times as fast as the standard library's
                yield stream, size * DEFLATE_LARGEST_RATIO
        else:
            yield raw, size


@contextmanager
def _naming_errors(name: str) -> Iterator[None]:
    """Turn errors of the operating system, gzip, nibabel and numpy into VolumeErrors of one line that name the file."""
    remedy = "convert or download it again"
    try:
        yield
    except VolumeError:
        raise
    except (EOFError, isal_zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(f"{name}: truncated or damaged gzip data ({error}); copy or download it again") from error
    except (ImageFileError, HeaderDataError, WrapStructError) as error:
        raise VolumeError(f"{name}: not a readable NIfTI file ({_one_line(error)}); {remedy}") from error
    except MemoryError as error:
        raise TooLargeError(f"{name}: does not fit into memory; crop it or use a larger machine") from error
    except OSError as error:
        raise VolumeError(f"{name}: cannot be read ({error.strerror or _one_line(error)}); {_remedy(error)}") from error
    except (ValueError, ArithmeticError, TypeError, LookupError, AttributeError, struct.error) as error:
        # raised by nibabel and numpy for headers without sense
        raise VolumeError(f"{name}: its header cannot be understood ({_one_line(error)}); {remedy}") from error


def _remedy(error: OSError) -> str:
    return {
        errno.EACCES: "check its permissions",
        errno.ELOOP: "its links lead in a circle, mend them",
        errno.ENAMETOOLONG: "give it a shorter name",
    }.get(error.errno, "check the file and its disk")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _image_class(start: bytes, path: Path, zipped: bool) -> type[nib.Nifti1Image]:
    """Return the class of NIfTI image that begins with these bytes; raise VolumeError for other files."""
    if start[4:7] == b"n+2" and len(start) >= nib.Nifti2Header.sizeof_hdr:
        return nib.Nifti2Image
    if start[344:347] == b"n+1" and len(start) >= nib.Nifti1Header.sizeof_hdr:
        return nib.Nifti1Image
    raise VolumeError(f"{path}: not a NIfTI volume but {describe_file(start, zipped=zipped)}")
