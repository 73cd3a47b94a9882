"""A NIfTI header as its bytes have it, and what has to be mended in it before nibabel mends it without a word."""

import math
from collections.abc import Iterator

import nibabel as nib
import numpy as np

from transforms.io.nifti_header import sizes_text, volume_shape

LAST_CODE = 5  # of sform and qform, NIFTI_XFORM_TEMPLATE_OTHER
_ALIGNED = 2  # NIFTI_XFORM_ALIGNED_ANAT: to something, no more is claimed


def repaired_header(
    header_class: type[nib.Nifti1Header], block: bytes, name: str
) -> tuple[nib.Nifti1Header, list[str]]:
    """Return the checked header of one 3D volume, its codes, voxel sizes and scaling usable, and what was doubtful.

    nibabel takes an unknown form code for 0, so that the form is not used; NIfTI says that a form counts where its
    code is above 0.

    Args:
        header_class: Of NIfTI-1 or NIfTI-2, of a single file or a pair.
        block: The header's bytes.
        name: Of the file, for messages.

    Raises:
        VolumeError: it is not of one real-valued volume (`volume_shape`).
        HeaderDataError: from nibabel, its data type is unknown or its voxels cannot begin where it says.
    """
    header = header_class(block, check=False)
    doubts = [*_length(header), *_codes(header), *_voxel_sizes(header)]
    bits = int(header["bitpix"])
    header.check_fix()
    volume_shape(header, name)
    if bits not in (0, dtype_bits := 8 * header.get_data_dtype().itemsize):
        doubts.append(f"its voxels have {bits} bits by bitpix and {dtype_bits} by their data type, which is used")
    return header, [*_scaling(header), *doubts]


def _length(header: nib.Nifti1Header) -> Iterator[str]:
    stored = int(header["sizeof_hdr"])
    if stored != header.sizeof_hdr:
        header["sizeof_hdr"] = header.sizeof_hdr
        yield f"its header says that it is {stored} bytes long; taken as {header.sizeof_hdr}"


def _codes(header: nib.Nifti1Header) -> Iterator[str]:
    for form in ("sform", "qform"):
        code = int(header[f"{form}_code"])
        if not 0 <= code <= LAST_CODE:
            header[f"{form}_code"] = taken = _ALIGNED if code > 0 else 0
            means = "aligned" if taken else f"no {form}"
            yield f"its {form} code is {code}, which NIfTI does not know; taken as {taken} ({means})"


def _voxel_sizes(header: nib.Nifti1Header) -> Iterator[str]:
    """Make the voxel sizes positive, and qfac, which says whether the qform's third axis is mirrored, 1 or -1."""
    sizes = np.array(header["pixdim"][1:4], dtype=np.float64)
    if (sizes < 0).any() or (sizes == 0).any():
        taken = np.where(sizes == 0, 1, np.abs(sizes))
        header["pixdim"][1:4] = taken
        yield f"pixdim gives voxels of {sizes_text(sizes)}, which cannot be; taken as {sizes_text(taken)}"
    qfac = float(header["pixdim"][0])
    if qfac not in (-1, 1):
        taken = -1 if qfac < 0 else 1  # as NIfTI's own library has it, which nibabel does not follow
        header["pixdim"][0] = taken
        if qfac != 0 and int(header["qform_code"]) > 0:  # 0 is usual, and 1 by the standard
            yield f"its qfac (pixdim[0]) is {qfac:g}, neither 1 nor -1; taken as {taken}"


def _scaling(header: nib.Nifti1Header) -> Iterator[str]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope):
        header["scl_slope"], header["scl_inter"] = 1, 0
        yield f"its slope is {slope:g}, so voxels are taken as they are stored"
    elif slope != 0 and not math.isfinite(intercept):
        header["scl_inter"] = 0
        yield f"its intercept is {intercept:g}, taken as 0"
