"""Writing a translated volume on its source's grid: the source's header and affine, new voxels."""

from collections.abc import Callable
from io import IOBase
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.filebasedimages import FileBasedHeader
from nibabel.wrapstruct import WrapStruct

from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write

VOLUME_SUFFIXES = (".nii", ".nii.gz")
COMPRESSION = 2  # of isal's 0 to 3: within 1 % of the size of the standard library's level 1, in a quarter of its time
_DESCRIPTION_BYTES = 79  # NIfTI's field has 80, and readers of C strings want the last one to be zero
NOTICE = "not for clinical use"  # first in `descrip`, where nothing can cut it off
MAP_DESCRIPTION = "expected error of synthetic"  # then, in every map of the expected error
PRIVATE_TEXT = ("data_type", "db_name", "aux_file")  # free text that may hold a patient's name


def image_like(
    data: np.ndarray,
    affine: np.ndarray,
    header: FileBasedHeader,
    *,
    integer: bool,
    description: str,
    keep_text: bool = False,
) -> nib.Nifti1Image:
    """Return new voxels as a nibabel image with the source's geometry.

    Units, qform and sform with their codes stay as they are; display range, intent, scaling, free text and header
    extensions (which may hold names) are reset. Sources that are not NIfTI get both forms from the affine.

    Args:
        data: (X, Y, Z) finite voxels on the source grid.
        affine: (4, 4), the source's, in millimetres; a NIfTI header's unit of micrometres or metres stays.
        header: nibabel's header of the source; not changed.
        integer: Whether to round to int16. Whole numbers too large for it, and all others, are stored as float32.
        description: Text for the header's `descrip`, after the notice "not for clinical use"; cut to 79 bytes.
        keep_text: Whether the source's free text and extensions stay. Its `descrip` then follows the part of the
            description before the comma.

    Returns:
        A Nifti2Image where the source is NIfTI-2, otherwise a Nifti1Image.
    """
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    voxels = _voxels(data, integer)
    new_header = image_class.header_class.from_header(header)
    if keep_text:
        text = b""
        if isinstance(header, WrapStruct) and "descrip" in header.keys():  # noqa: SIM118  (it is no mapping)
            text = header["descrip"].item()
        description = f"{description.partition(',')[0]}; {text.decode(errors='replace')}"
    else:
        new_header.extensions = type(new_header.extensions)()
    new_header.set_data_dtype(voxels.dtype)
    if new_header.get_data_shape() != voxels.shape:  # nibabel would reset the unused `pixdim` even for equal ones
        new_header.set_data_shape(voxels.shape)
    new_header.set_slope_inter(1, 0)
    new_header.set_intent("none")
    new_header["cal_min"] = new_header["cal_max"] = 0
    new_header["descrip"] = f"{NOTICE}; {description}".encode()[:_DESCRIPTION_BYTES].decode(errors="ignore").encode()
    for field in PRIVATE_TEXT:
        if field in new_header and not keep_text:
            new_header[field] = b""
    if isinstance(header, nib.Nifti1Header):
        affine = _in_unit_of(header, affine)
    else:
        new_header.set_xyzt_units("mm")
        new_header.set_qform(affine, code="scanner")
        new_header.set_sform(affine, code="scanner")
    return image_class(voxels, affine, new_header)


def _in_unit_of(header: nib.Nifti1Header, affine_mm: np.ndarray) -> np.ndarray:
    """Return the header's own affine where it is `affine_mm` in micrometres or metres, otherwise `affine_mm`."""
    header_affine = header.get_best_affine()
    matches = (np.allclose(np.diag([scale] * 3 + [1.0]) @ affine_mm, header_affine) for scale in (1000.0, 0.001))
    return header_affine if any(matches) else affine_mm


def write_volume(image: nib.Nifti1Image, path: Path) -> None:
    """Write a NIfTI image to a `.nii` or `.nii.gz` file, atomically; equal images make equal bytes.

    Raises:
        UserError: the suffix is another one, the disk is full, or the folder cannot be written.
    """
    atomic_write(path, volume_writer(image, path))


def require_volume_name(path: Path) -> None:
    """Refuse a name for a volume that ends neither in `.nii` nor in `.nii.gz`, with a `UserError`."""
    if not path.name.lower().endswith(VOLUME_SUFFIXES):
        raise UserError(f"{path}: volumes are written as .nii or .nii.gz; choose such a name")


def volume_writer(image: nib.Nifti1Image, path: Path) -> Callable[[BinaryIO], None]:
    """Return a function that writes a NIfTI image to a stream, in the format of the path's suffix.

    Raises:
        UserError: the suffix is neither `.nii` nor `.nii.gz`.
    """
    require_volume_name(path)
    name = path.name.lower()

    def write(stream: BinaryIO) -> None:
        if name.endswith(".gz"):
            with igzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=stream, mtime=0) as zipped:
                image.to_stream(zipped)
        else:
            image.to_stream(cast(IOBase, stream))

    return write


def _voxels(data: np.ndarray, integer: bool) -> np.ndarray:
    """Return the voxels in their type on disk: int16 or float32."""
    if integer:
        rounded = np.rint(data)
        limits = np.iinfo(np.int16)
        if rounded.min() >= limits.min and rounded.max() <= limits.max:
            return rounded.astype(np.int16)
        return rounded.astype(np.float32)
    return np.asarray(data, dtype=np.float32)
