"""Reading NIfTI volumes with nibabel, with the checks that nibabel leaves out."""

import gzip
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import FileBasedHeader
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import SpatialImage

PAIR_SUFFIXES = (".hdr", ".img")
PLAUSIBLE_VOXEL_MM = (0.01, 100.0)
DEFLATE_LARGEST_RATIO = 1032  # zlib's manual: "the limiting compression factor"
_CHUNK_BYTES = 1 << 20
_FOREIGN_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<", "a web page or XML; download the file again"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"PK", "a zip archive; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
)


def read_nifti(source: str | Path | SpatialImage) -> tuple[np.ndarray, np.ndarray, FileBasedHeader]:
    """Read a whole 3D volume with its scaling applied.

    Args:
        source: A `.nii`, `.nii.gz`, `.hdr` or `.img` file (NIfTI-1, NIfTI-2, Analyze), or a loaded nibabel image.

    Returns:
        The (X, Y, Z) float32 voxels, all finite and not all the same; the (4, 4) float64 affine, voxel to RAS
        millimetres; and nibabel's header. A 4D file with a single volume counts as 3D.

    Warns:
        UserWarning: NaN and -inf voxels became the lowest finite value (0 would be tissue in CT), +inf ones the
            highest; gives their number.

    Raises:
        ValueError: the file is missing, damaged, no NIfTI, or no real-valued 3D volume; names it, why and the remedy.
    """
    if isinstance(source, SpatialImage):
        image, name = source, source.get_filename() or "the image"
    else:
        image, name = _open(Path(source)), str(source)
    shape = _shape_3d(image, name)
    affine = _affine(image, name)
    with _reading(name), np.errstate(over="ignore"):
        array = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    return _finite(array, name), affine, image.header


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────


def _open(path: Path) -> SpatialImage:
    """Open a file whose bytes are checked to be all there; its voxels are not yet converted."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a .nii or .nii.gz file")
    if not path.exists():
        raise ValueError(f"{path}: no such file; check the path")
    with _reading(str(path)), LoggingOutputSuppressor():
        return _open_pair(path) if path.suffix.lower() in PAIR_SUFFIXES else _open_single(path)


def _open_single(path: Path) -> SpatialImage:
    """Read a single-file NIfTI to the end of its stream, so that truncation and gzip's checksum are noticed."""
    with _decompressed(path) as (stream, most_bytes):
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
        image_class = _image_class(start, path)
        header_class = image_class.header_class
        header = header_class(start[: header_class.sizeof_hdr])
        wanted = _bytes_of_voxels(header) + int(header["vox_offset"])
        if wanted > most_bytes:
            raise ValueError(
                f"{path}: its header claims {_shape_text(header.get_data_shape())} voxels, more than the file can "
                "hold; it is damaged or truncated, copy or download it again"
            )
        content = start + stream.read(max(0, wanted - len(start)))
        if len(content) < wanted:
            raise ValueError(
                f"{path}: truncated, {wanted:,} bytes expected and {len(content):,} found; copy or download it again"
            )
        while stream.read(_CHUNK_BYTES):  # gzip compares the checksum at the stream's end
            pass
    return image_class.from_bytes(content)


def _open_pair(path: Path) -> SpatialImage:
    """Open a `.hdr` and `.img` pair (NIfTI or Analyze) whose `.img` is long enough."""
    image = nib.load(path)
    voxels = Path(image.file_map["image"].filename)
    if not voxels.exists():
        raise ValueError(f"{path}: its {voxels.name} is missing; keep the .hdr and .img files side by side")
    wanted = _bytes_of_voxels(image.header) + int(image.dataobj.offset)
    if wanted > voxels.stat().st_size:
        raise ValueError(
            f"{voxels}: truncated, {wanted:,} bytes expected and {voxels.stat().st_size:,} found; "
            "copy or download it again"
        )
    return image


@contextmanager
def _decompressed(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Yield the (unpacked, whatever the name says) stream and the most bytes that it can hold."""
    with path.open("rb") as raw:
        size = path.stat().st_size
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if zipped:
            with gzip.open(raw) as stream:
                yield stream, size * DEFLATE_LARGEST_RATIO
        else:
            yield raw, size


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what the operating system, gzip and nibabel raise into one line that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name}: truncated or damaged gzip data ({error}); copy or download it again") from error
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise ValueError(f"{name}: not a readable NIfTI file ({error}); convert or download it again") from error
    except MemoryError as error:
        raise ValueError(f"{name}: does not fit into memory; crop it or use a larger machine") from error
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror or error}); check the file") from error


def _image_class(start: bytes, path: Path) -> type[nib.Nifti1Image]:
    """Return which NIfTI the first bytes begin; raise, saying what it is instead, where they begin none."""
    if start[4:7] == b"n+2" and len(start) >= nib.Nifti2Header.sizeof_hdr:
        return nib.Nifti2Image
    if start[344:347] == b"n+1":
        return nib.Nifti1Image
    raise ValueError(f"{path}: not a NIfTI volume but {_what_it_is(start)}")


def _what_it_is(start: bytes) -> str:
    """Describe a file that is not NIfTI by its first bytes, with the remedy."""
    if not start:
        return "an empty file; copy or download it again"
    for prefix, description in _FOREIGN_STARTS:
        if start.lstrip().startswith(prefix):
            return description
    if start[128:132] == b"DICM":
        return "a DICOM file; convert the series with dcm2niix"
    if start[344:347] == b"ni1":
        return "the header of a .hdr/.img pair; give it the suffix .hdr"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "a text file"
    return "something else; convert it to NIfTI, or download it again"


# ── the volume ──────────────────────────────────────────────────────────────────────────────────────────────


def _bytes_of_voxels(header: FileBasedHeader) -> int:
    return math.prod(int(length) for length in header.get_data_shape()) * header.get_data_dtype().itemsize


def _shape_text(shape: tuple[int, ...]) -> str:
    return "×".join(str(length) for length in shape)


def _shape_3d(image: SpatialImage, name: str) -> tuple[int, ...]:
    """Return the (X, Y, Z) shape; raise unless the image is one real-valued volume with voxels in it."""
    shape = tuple(int(length) for length in image.shape)
    if len(shape) < 3:
        raise ValueError(f"{name}: has {len(shape)} dimensions ({_shape_text(shape)}), not 3; give a volume")
    if math.prod(shape[3:]) > 1:
        raise ValueError(
            f"{name}: is a series of {math.prod(shape[3:])} volumes ({_shape_text(shape)}); extract one of them first"
        )
    if min(shape) < 1:
        raise ValueError(f"{name}: has no voxels ({_shape_text(shape)}); export it again")
    dtype = image.get_data_dtype()
    if dtype.names or dtype.kind not in "buif":
        kind = "colour" if dtype.names else "complex" if dtype.kind == "c" else str(dtype)
        raise ValueError(f"{name}: holds {kind} voxels; save its magnitude or gray values as integers or floats")
    return shape[:3]


def _affine(image: SpatialImage, name: str) -> np.ndarray:
    """Return the (4, 4) float64 affine; raise where it places no voxel, or voxels of an impossible size."""
    affine = image.affine if image.affine is not None else image.header.get_best_affine()
    affine = np.array(affine, dtype=np.float64)
    remedy = "repair its header (qform and sform) or convert it again"
    if not np.isfinite(affine).all():
        raise ValueError(f"{name}: its affine holds NaN or infinite values; {remedy}")
    spacing_mm = voxel_sizes(affine)
    smallest, largest = PLAUSIBLE_VOXEL_MM
    if not ((spacing_mm >= smallest) & (spacing_mm <= largest)).all():
        sizes = "×".join(f"{size:.3g}" for size in spacing_mm)
        raise ValueError(f"{name}: its voxels measure {sizes} mm by the affine, which cannot be; {remedy}")
    if abs(np.linalg.det(affine[:3, :3] / spacing_mm)) < 1e-3:  # the volume of the unit axes' parallelepiped
        raise ValueError(f"{name}: its affine is singular, two of its axes coincide; {remedy}")
    return affine


def _finite(array: np.ndarray, name: str) -> np.ndarray:
    """Return the array with NaN and infinite voxels replaced; raise where nothing, or a single value, is left."""
    finite = np.isfinite(array)
    bad = array.size - int(np.count_nonzero(finite))
    if bad == array.size:
        raise ValueError(f"{name}: every voxel is NaN or infinite; export it again")
    if bad:
        low, high = float(array[finite].min()), float(array[finite].max())
        array = np.nan_to_num(array, nan=low, posinf=high, neginf=low)
        replaced = f"{bad:,} NaN or infinite voxels were replaced by the lowest finite value (+inf by the highest)"
        warnings.warn(f"{name}: {replaced}", stacklevel=3)
    if array.min() == array.max():
        raise ValueError(f"{name}: every voxel has the same value, {array.flat[0]:g}; there is nothing in it to see")
    return array
