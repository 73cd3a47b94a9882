"""Reading a volume's header: shape and affine, with errors for what is impossible and cautions for what is doubtful."""

import math
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.filebasedimages import FileBasedHeader
from nibabel.spatialimages import HeaderDataError, SpatialImage

PLAUSIBLE_VOXEL_MM = (0.01, 100.0)
MIN_HEAD_MM = 5.0  # a mouse's brain measures about 15 mm
MIN_AXES_DETERMINANT = 1e-3  # determinant of the unit axes; with a smaller one two axes coincide
FORM_TOLERANCE_VOXELS = 0.1  # how far two affines may move a corner of the volume, in its smallest voxel spacing
SIZE_TOLERANCE = 0.01  # relative, between pixdim and the sform's voxel sizes
_UNITS_MM = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}  # of xyzt_units; 2 is millimetres, 0 unknown
_REMEDY = "repair its header (qform and sform) or convert it again"


class VolumeError(ValueError):
    """A volume that cannot be used; the message is one line that names the file, the reason and the remedy."""


class TooLargeError(VolumeError):
    """A volume that does not fit into the free memory."""


# ── the voxels ──────────────────────────────────────────────────────────────────────────────────────────────


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as text: (2, 3, 4) -> "2×3×4"."""
    return "×".join(str(length) for length in shape)


def sizes_text(spacing: np.ndarray) -> str:
    """Return voxel sizes as text: (0.94, 0.94, 1.2) -> "0.94×0.94×1.2"."""
    return "×".join(f"{size:.3g}" for size in spacing)


def voxel_bytes(header: FileBasedHeader) -> int:
    """Return the size of the voxels in bytes, in Python integers that no header overflows."""
    return math.prod(int(length) for length in header.get_data_shape()) * header.get_data_dtype().itemsize


def volume_shape(header: FileBasedHeader, name: str) -> tuple[int, ...]:
    """Return the (X, Y, Z) shape; raise VolumeError unless the header is of one real-valued volume with voxels."""
    shape = tuple(int(length) for length in header.get_data_shape())
    if shape and min(shape) < 1:
        raise VolumeError(f"{name}: has no voxels ({shape_text(shape)}); export it again")
    if len(shape) < 3:
        raise VolumeError(f"{name}: has {len(shape)} dimensions ({shape_text(shape)}), not 3; give a volume")
    if math.prod(shape[3:]) > 1:
        raise VolumeError(
            f"{name}: is a series of {math.prod(shape[3:])} volumes ({shape_text(shape)}); extract one of them first"
        )
    dtype = header.get_data_dtype()
    if dtype.names or dtype.kind not in "buif":
        kind = (
            "colour" if dtype.names else {"c": "complex", "V": f"{8 * dtype.itemsize}-bit"}.get(dtype.kind, str(dtype))
        )
        raise VolumeError(f"{name}: holds {kind} voxels; save its magnitude or gray values as integers or floats")
    return shape[:3]


# ── the grid ────────────────────────────────────────────────────────────────────────────────────────────────


def affine_mm(image: SpatialImage, name: str) -> tuple[np.ndarray, list[str]]:
    """Return the (4, 4) float64 affine, voxel to RAS millimetres, and cautions about the grid.

    The sform precedes the qform, and both precede the voxel sizes (NIfTI's methods 3, 2, 1).

    Raises:
        VolumeError: the affine is not finite, is singular, or has impossible voxel sizes.
    """
    stored = np.array(image.affine if image.affine is not None else image.header.get_best_affine(), dtype=np.float64)
    if not np.isfinite(stored).all():
        raise VolumeError(f"{name}: its affine holds NaN or infinite values; {_REMEDY}")
    factor, cautions = _unit_factor(image.header, voxel_sizes(stored) * image.shape[:3])
    affine = np.diag([factor, factor, factor, 1.0]) @ stored
    spacing_mm = voxel_sizes(affine)
    smallest, largest = PLAUSIBLE_VOXEL_MM
    if not ((spacing_mm >= smallest) & (spacing_mm <= largest)).all():
        sizes = sizes_text(spacing_mm)
        raise VolumeError(f"{name}: its voxels measure {sizes} mm by the affine, which cannot be; {_REMEDY}")
    if abs(np.linalg.det(affine[:3, :3] / spacing_mm)) < MIN_AXES_DETERMINANT:  # volume of the unit axes
        raise VolumeError(f"{name}: its affine is singular, two of its axes coincide; {_REMEDY}")
    return affine, [*_grid_cautions(image, stored), *cautions]


def _unit_factor(header: FileBasedHeader, extent: np.ndarray) -> tuple[float, list[str]]:
    """Return millimetres per unit of the affine, and cautions; an implausible unit for a head counts as millimetres."""
    code = int(header["xyzt_units"]) & 7 if isinstance(header, nib.Nifti1Header) else 0
    if code not in _UNITS_MM:
        return 1.0, []
    unit, factor = _UNITS_MM[code]
    if MIN_HEAD_MM <= float(extent.max()) * factor <= 1000 * MIN_HEAD_MM:
        return factor, [f"its header is in {unit}, which is honoured here but not by most programs"]
    return 1.0, [f"its header says {unit}, in which no head would fit; taken as millimetres"]


def _grid_cautions(image: SpatialImage, affine: np.ndarray) -> Iterator[str]:
    """Yield cautions where the header does not define the grid or contradicts itself."""
    header = image.header
    analyze = isinstance(header, nib.AnalyzeHeader) and not isinstance(header, nib.Nifti1Header)
    if analyze and not _has_spm_affine(image):
        yield "Analyze files store no orientation; taken as LAS, so check left and right"
    if not isinstance(header, nib.Nifti1Header):
        return
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not has_sform and not has_qform:
        yield "its header gives no orientation (sform and qform codes are 0); taken as LAS, so check left and right"
        return
    if not has_sform:
        return
    spacing, pixdim = voxel_sizes(affine), np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    sizes_agree = np.isfinite(pixdim).all() and np.allclose(pixdim, spacing, rtol=SIZE_TOLERANCE, atol=0)
    if not sizes_agree:
        yield f"pixdim gives voxels of {sizes_text(pixdim)}, the sform of {sizes_text(spacing)}; the sform is used"
    if has_qform:
        # pixdim belongs to the qform: a caution about it is not repeated
        yield from _qform_cautions(header, affine, image.shape[:3], spacing if not sizes_agree else None)


def _has_spm_affine(image: SpatialImage) -> bool:
    """Return whether nibabel took the affine from the `.mat` that SPM leaves beside an Analyze pair."""
    mat = image.file_map.get("mat")
    if mat is None or mat.filename is None or not Path(mat.filename).exists() or not Path(mat.filename).stat().st_size:
        return False
    from scipy.io import whosmat

    return bool({"mat", "M"} & {variable for variable, *_ in whosmat(mat.filename)})


def _qform_cautions(
    header: nib.Nifti1Header, sform: np.ndarray, shape: tuple[int, ...], spacing: np.ndarray | None
) -> Iterator[str]:
    """Yield cautions where the qform, with voxel sizes `spacing` if given, differs from the sform at a corner."""
    try:
        qform = header.get_qform()
    except (HeaderDataError, ValueError, FloatingPointError):
        qform = np.full((4, 4), np.nan)
    if not np.isfinite(qform).all():
        yield "the qform's quaternion is invalid; the sform is used"
        return
    if spacing is not None:
        sizes = voxel_sizes(qform)
        qform[:3, :3] *= spacing / np.where(sizes > 0, sizes, 1)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    distance = np.linalg.norm(apply_affine(qform, corners) - apply_affine(sform, corners), axis=1).max()
    rounding = 1e-5 * float(np.abs(sform[:3, 3]).max())  # float32 header fields, far from the origin
    smallest = float(voxel_sizes(sform).min())
    if distance > max(FORM_TOLERANCE_VOXELS * smallest, rounding):
        yield f"sform and qform disagree by up to {distance / smallest:.3g} voxels; the sform is used"
