"""Checks of a volume: errors for what is impossible, warnings for what is doubtful and how it was taken."""

import ctypes
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import imageglobals
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.filebasedimages import FileBasedHeader
from nibabel.spatialimages import HeaderDataError, SpatialHeader, SpatialImage

PLAUSIBLE_VOXEL_MM = (0.01, 100.0)
MIN_HEAD_MM = 5.0  # a mouse's brain measures about 15 mm
MAX_EXTENT_MM = 2000.0  # of a volume along an axis: a head's field of view is 0.3 m, and resampling would fill memory
MIN_AXES_DETERMINANT = 1e-3  # determinant of the unit axes; with a smaller one two axes coincide
FORM_TOLERANCE_VOXELS = 0.1  # how far two affines may move a corner of the volume, in its smallest voxel spacing
SIZE_TOLERANCE = 0.01  # relative, between pixdim and the sform's voxel sizes
MAX_CODE = 5  # highest sform and qform code, NIFTI_XFORM_TEMPLATE_OTHER
ALIGNED = 2  # NIFTI_XFORM_ALIGNED_ANAT, the weakest claim
MAX_MAGNITUDE = 1e30  # float32's maximum is 3.4e38: above this value, differences and sums of voxels overflow
MIN_SPREAD = 1e-30  # smallest range of intensities; below it the factor to [-1, 1] overflows
MIN_RELATIVE_SPREAD = 1e-5  # a contrast of 1e-5 of the offset has about 160 steps in float32
_UNITS_MM = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}  # of xyzt_units; 2 is millimetres, 0 unknown
_REMEDY = "repair its header (qform and sform) or convert it again"


class VolumeError(ValueError):
    """A volume that cannot be used; the message is one line that names the file, the reason and the remedy."""


class TooLargeError(VolumeError):
    """A volume that does not fit into the free memory."""


@contextmanager
def nibabel_silent() -> Iterator[None]:
    """Drop what nibabel logs in this thread: it names no file, and the warnings here cover what matters."""
    thread_id = threading.get_ident()

    def is_from_other_thread(_: object) -> bool:
        return threading.get_ident() != thread_id

    imageglobals.logger.addFilter(is_from_other_thread)
    try:
        yield
    finally:
        imageglobals.logger.removeFilter(is_from_other_thread)


# ── the voxels ──────────────────────────────────────────────────────────────────────────────────────────────


def sizes_text(lengths: tuple[int, ...] | np.ndarray) -> str:
    """Return lengths as text: (2, 3, 4) -> "2×3×4"; fractions with three digits."""
    return "×".join(str(length) if isinstance(length, int) else f"{length:.3g}" for length in lengths)


def shape_of(header: SpatialHeader) -> tuple[int, ...]:
    """Return a header's shape in Python integers, which no header overflows."""
    return tuple(int(length) for length in header.get_data_shape())


def voxel_bytes(header: SpatialHeader) -> int:
    """Return the size of the voxels in bytes."""
    return math.prod(shape_of(header)) * header.get_data_dtype().itemsize


def volume_shape(header: SpatialHeader, name: str) -> tuple[int, ...]:
    """Return the (X, Y, Z) shape; raise VolumeError unless the header is of one real-valued volume with voxels."""
    shape, dtype = shape_of(header), header.get_data_dtype()
    if shape and min(shape) < 1:
        raise VolumeError(f"{name}: has no voxels ({sizes_text(shape)}); export it again")
    if len(shape) < 3:
        raise VolumeError(f"{name}: has {len(shape)} dimensions ({sizes_text(shape)}), not 3; give a volume")
    if (count := math.prod(shape[3:])) > 1:
        raise VolumeError(f"{name}: is a series of {count} volumes ({sizes_text(shape)}); extract one of them first")
    if dtype.names or dtype.kind not in "buif":
        kind = "colour" if dtype.names else "complex" if dtype.kind == "c" else str(dtype)
        raise VolumeError(f"{name}: holds {kind} voxels; save its magnitude or gray values as integers or floats")
    return shape[:3]


def finite_float32(image: SpatialImage, shape: tuple[int, ...], name: str) -> tuple[np.ndarray, list[str]]:
    """Return an image's (X, Y, Z) voxels, scaling applied, as finite float32, and warnings.

    NaN and -inf become the lowest finite value (0 would be tissue in CT), +inf the highest; values beyond
    `MAX_MAGNITUDE` count as infinite. VolumeError: no voxel is finite, all have the same value, or float32 cannot tell
    their values apart.
    """
    warnings = []
    with np.errstate(all="ignore"):
        array = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
        low, high = float(array.min()), float(array.max())  # NaN if the array holds one
        if not max(abs(low), abs(high)) <= MAX_MAGNITUDE:
            usable = np.abs(array) <= MAX_MAGNITUDE
            replaced = array.size - int(np.count_nonzero(usable))
            if replaced == array.size:
                raise VolumeError(
                    f"{name}: every voxel is NaN or infinite (beyond ±{MAX_MAGNITUDE:g}); export it again"
                )
            low, high = float(array[usable].min()), float(array[usable].max())
            array = np.clip(np.nan_to_num(array, nan=low, posinf=high, neginf=low), low, high)
            note = "were replaced by the lowest finite value (+inf by the highest)"
            warnings.append(f"{replaced:,} NaN or infinite voxels {note}")
    if low == high:
        raise VolumeError(f"{name}: every voxel has the same value, {low:g}; nothing is to be seen in it, export again")
    if high - low < max(MIN_SPREAD, MIN_RELATIVE_SPREAD * max(abs(low), abs(high))):
        raise VolumeError(
            f"{name}: its values, {low:.6g} to {high:.6g}, lie too close together for float32; subtract their minimum, "
            "or scale them, and export it again"
        )
    return array, warnings


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────


def free_memory(wanted_bytes: int = 0) -> int:
    """Return the bytes that can still be allocated; below `wanted_bytes`, glibc returns what it keeps of freed ones."""
    import psutil

    free_bytes = psutil.virtual_memory().available
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # musl has none
    if free_bytes < wanted_bytes and trim is not None and trim(0):
        free_bytes = psutil.virtual_memory().available
    return int(free_bytes)


def require_memory(header: SpatialHeader, file_bytes: int, path: Path) -> None:
    """Raise TooLargeError unless `file_bytes` bytes of the file and the float32 voxels fit into free memory."""
    shape = shape_of(header)
    needed_bytes = file_bytes + 4 * math.prod(shape)
    free_bytes = free_memory(needed_bytes)
    if needed_bytes > free_bytes:
        raise TooLargeError(
            f"{path}: does not fit into memory, its {sizes_text(shape)} voxels need {needed_bytes / 1e9:.3g} GB and "
            f"{free_bytes / 1e9:.3g} GB are free; crop it or use a larger machine"
        )


# ── repairs ─────────────────────────────────────────────────────────────────────────────────────────────────


def repaired_header(
    header_class: type[nib.Nifti1Header], block: bytes, name: str
) -> tuple[nib.Nifti1Header, list[str]]:
    """Return the header of one 3D volume, its impossible fields repaired, and a warning for each of them.

    nibabel repairs some fields. It reads an unknown form code as 0 and qfac as 1, but by the NIfTI standard a form is
    used if its code is above 0, and qfac counts by its sign. Scaling that is not finite is left out. VolumeError: the
    header is not of one real-valued volume (`volume_shape`). HeaderDataError, nibabel's: an unknown data type.
    """
    header = header_class(block, check=False)
    before = _field_texts(header)
    for form in ("sform_code", "qform_code"):
        code = int(header[form])
        if not 0 <= code <= MAX_CODE:
            header[form] = ALIGNED if code > 0 else 0
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    header.check_fix()
    volume_shape(header, name)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope):
        header["scl_slope"], header["scl_inter"] = 1, 0
    elif slope != 0 and not math.isfinite(intercept):
        header["scl_inter"] = 0
    after = _field_texts(header)
    return header, [
        f"its {field} is {before[field]}, taken as {text}"
        for field, text in after.items()
        if before[field] not in ("0", text)  # 0 is common, and means the usual value
    ]


def _field_texts(header: nib.Nifti1Header) -> dict[str, str]:
    """Return the fields that may need repair as text; qfac only where the qform is used."""
    names = ("sizeof_hdr", "bitpix", "sform_code", "qform_code", "scl_slope", "scl_inter")
    texts = {name: f"{header[name].item():g}" for name in names}
    qfac = f"{header['pixdim'][0]:g}" if int(header["qform_code"]) > 0 else "0"
    return texts | {"pixdim": sizes_text(np.array(header["pixdim"][1:4], dtype=np.float64)), "qfac": qfac}


# ── the grid ────────────────────────────────────────────────────────────────────────────────────────────────


def affine_mm(image: SpatialImage, name: str) -> tuple[np.ndarray, list[str]]:
    """Return the (4, 4) float64 affine, voxel to RAS millimetres, and warnings about the grid.

    The sform precedes the qform, and both precede the voxel sizes (NIfTI's methods 3, 2, 1). VolumeError: the affine is
    not finite, is singular, or has impossible voxel sizes.
    """
    stored = np.array(image.affine if image.affine is not None else image.header.get_best_affine(), dtype=np.float64)
    if not np.isfinite(stored).all():
        raise VolumeError(f"{name}: its affine holds NaN or infinite values; {_REMEDY}")
    factor, warnings = _unit_factor(image.header, voxel_sizes(stored) * image.shape[:3])
    affine = np.diag([factor, factor, factor, 1.0]) @ stored
    spacing_mm = voxel_sizes(affine)
    smallest, largest = PLAUSIBLE_VOXEL_MM
    if not ((spacing_mm >= smallest) & (spacing_mm <= largest)).all():
        sizes = sizes_text(spacing_mm)
        raise VolumeError(f"{name}: its voxels measure {sizes} mm by the affine, which cannot be; {_REMEDY}")
    extent_mm = float((spacing_mm * image.shape[:3]).max())
    if extent_mm > MAX_EXTENT_MM:
        raise VolumeError(f"{name}: {extent_mm:,.0f} mm long by its affine, as no head is; {_REMEDY}")
    if abs(np.linalg.det(affine[:3, :3] / spacing_mm)) < MIN_AXES_DETERMINANT:  # volume of the unit axes
        raise VolumeError(f"{name}: its affine is singular, two of its axes coincide; {_REMEDY}")
    if isinstance(image.header, nib.Nifti1Header):
        warnings = [*_form_warnings(image.header, stored, image.shape[:3]), *warnings]
    return affine, warnings


def _unit_factor(header: FileBasedHeader, extent: np.ndarray) -> tuple[float, list[str]]:
    """Return millimetres per unit of the affine, and warnings; a unit in which no head fits counts as millimetres."""
    code = int(header["xyzt_units"]) & 7 if isinstance(header, nib.Nifti1Header) else 0
    if code not in _UNITS_MM:
        return 1.0, []
    unit, factor = _UNITS_MM[code]
    if MIN_HEAD_MM <= float(extent.max()) * factor <= 1000 * MIN_HEAD_MM:
        return factor, [f"its header is in {unit}, which is honoured here but not by most programs"]
    return 1.0, [f"its header says {unit}, in which no head would fit; taken as millimetres"]


def _form_warnings(header: nib.Nifti1Header, affine: np.ndarray, shape: tuple[int, ...]) -> Iterator[str]:
    """Yield warnings where a NIfTI header gives no orientation, or contradicts its sform."""
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not has_sform:
        if not has_qform:
            yield "its header gives no orientation (sform and qform codes are 0); taken as LAS, so check left and right"
        return
    spacing, pixdim = voxel_sizes(affine), np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    sizes_agree = np.isfinite(pixdim).all() and np.allclose(pixdim, spacing, rtol=SIZE_TOLERANCE, atol=0)
    if not sizes_agree:
        yield f"pixdim gives voxels of {sizes_text(pixdim)}, the sform of {sizes_text(spacing)}; the sform is used"
    elif has_qform:  # with other voxel sizes, which belong to the qform, it would differ in any case
        yield from _qform_warnings(header, affine, shape)


def _qform_warnings(header: nib.Nifti1Header, sform: np.ndarray, shape: tuple[int, ...]) -> Iterator[str]:
    """Yield a warning where the qform is invalid or moves a corner of the volume away from where the sform has it."""
    try:
        qform = header.get_qform()
    except (HeaderDataError, ValueError, FloatingPointError):
        qform = np.full((4, 4), np.nan)
    if not np.isfinite(qform).all():
        yield "the qform's quaternion is invalid; the sform is used"
        return
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    distance = np.linalg.norm(apply_affine(qform, corners) - apply_affine(sform, corners), axis=1).max()
    rounding = 1e-5 * float(np.abs(sform[:3, 3]).max())  # float32 header fields, far from the origin
    smallest = float(voxel_sizes(sform).min())
    if distance > max(FORM_TOLERANCE_VOXELS * smallest, rounding):
        yield f"sform and qform disagree by up to {distance / smallest:.3g} voxels; the sform is used"
