"""Repairing a NIfTI header with cautions, before nibabel would repair it silently."""

import math
from collections.abc import Iterator

import nibabel as nib
import numpy as np

from transforms.io.nifti_header import sizes_text, volume_shape

MAX_CODE = 5  # highest sform and qform code, NIFTI_XFORM_TEMPLATE_OTHER
_ALIGNED = 2  # NIFTI_XFORM_ALIGNED_ANAT, the weakest claim


def repaired_header(
    header_class: type[nib.Nifti1Header], block: bytes, name: str
) -> tuple[nib.Nifti1Header, list[str]]:
    """Return the checked header of one 3D volume with usable codes, voxel sizes and scaling, and cautions.

    nibabel reads an unknown form code as 0, so that the form is not used; by the NIfTI standard a form is used if its
    code is above 0.

    Args:
        header_class: Header class of NIfTI-1 or NIfTI-2, of a single file or a pair.
        block: The header's bytes.
        name: File name for messages.

    Raises:
        VolumeError: the header is not of one real-valued volume (`volume_shape`).
        HeaderDataError: from nibabel, for an unknown data type or an impossible offset of the voxels.
    """
    header = header_class(block, check=False)
    cautions = [*_repair_length(header), *_repair_codes(header), *_repair_voxel_sizes(header)]
    bits = int(header["bitpix"])
    header.check_fix()
    volume_shape(header, name)
    if bits not in (0, dtype_bits := 8 * header.get_data_dtype().itemsize):
        cautions.append(f"its voxels have {bits} bits by bitpix and {dtype_bits} by their data type, which is used")
    return header, [*_repair_scaling(header), *cautions]


def _repair_length(header: nib.Nifti1Header) -> Iterator[str]:
    stored = int(header["sizeof_hdr"])
    if stored != header.sizeof_hdr:
        header["sizeof_hdr"] = header.sizeof_hdr
        yield f"its header says that it is {stored} bytes long; taken as {header.sizeof_hdr}"


def _repair_codes(header: nib.Nifti1Header) -> Iterator[str]:
    for form in ("sform", "qform"):
        code = int(header[f"{form}_code"])
        if not 0 <= code <= MAX_CODE:
            header[f"{form}_code"] = used_code = _ALIGNED if code > 0 else 0
            meaning = "aligned" if used_code else f"no {form}"
            yield f"its {form} code is {code}, which NIfTI does not know; taken as {used_code} ({meaning})"


def _repair_voxel_sizes(header: nib.Nifti1Header) -> Iterator[str]:
    """Make the voxel sizes positive, and qfac, the sign of the qform's third axis, 1 or -1."""
    sizes = np.array(header["pixdim"][1:4], dtype=np.float64)
    if (sizes < 0).any() or (sizes == 0).any():
        taken = np.where(sizes == 0, 1, np.abs(sizes))
        header["pixdim"][1:4] = taken
        yield f"pixdim gives voxels of {sizes_text(sizes)}, which cannot be; taken as {sizes_text(taken)}"
    qfac = float(header["pixdim"][0])
    if qfac not in (-1, 1):
        taken = -1 if qfac < 0 else 1  # like NIfTI's own library, unlike nibabel
        header["pixdim"][0] = taken
        if qfac != 0 and int(header["qform_code"]) > 0:  # 0 is common, and means 1 by the standard
            yield f"its qfac (pixdim[0]) is {qfac:g}, neither 1 nor -1; taken as {taken}"


def _repair_scaling(header: nib.Nifti1Header) -> Iterator[str]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope):
        header["scl_slope"], header["scl_inter"] = 1, 0
        yield f"its slope is {slope:g}, so voxels are taken as they are stored"
    elif slope != 0 and not math.isfinite(intercept):
        header["scl_inter"] = 0
        yield f"its intercept is {intercept:g}, taken as 0"
