"""Doubtful volumes: they are translated onto their own grid, and one warning by file name says what was assumed."""

import nibabel as nib
import numpy as np
from volume_cases import (
    DATATYPE,
    INTERCEPT,
    PIXDIM,
    QFORM_CODE,
    QUATERNION,
    SFORM_CODE,
    SLOPE,
    UNITS,
    VOX_OFFSET,
    Case,
    affine_of,
    bytes_case,
    head,
    image,
    image_case,
    patched,
    saved,
)

F4, I2 = np.float32, np.int16
MICROMETRES, METRES = 3, 1


def forms_apart(degrees: float = 0.0, shift_mm: float = 0.0, codes=(1, 1)) -> nib.Nifti1Image:
    made = image(codes=codes)
    qform = affine_of(oblique=degrees)
    qform[:3, 3] += shift_mm
    made.header.set_qform(qform, code=codes[0])
    return made


def with_voxels(values: dict[tuple[int, int, int], float], dtype=np.float32) -> nib.Nifti1Image:
    data = head(dtype=dtype)
    for place, value in values.items():
        data[place] = value
    return image(data)


def in_units(code: int, factor: float):
    def content() -> bytes:
        data, affine = head(), affine_of()
        affine[:3] *= factor
        made = image(data, affine)
        return patched({UNITS: np.uint8(code)}, made)

    return content


def analyze(kind):
    def write(folder):
        made = kind(head(), np.diag([-9.0, 10.0, 10.0, 1.0]))
        saved(folder, made, "head.img")
        (folder / "head.mat").unlink(missing_ok=True)  # where SPM keeps the affine
        return folder / "head.hdr"

    return write


def thin(axis: int) -> nib.Nifti1Image:
    return image().slicer[tuple(slice(9, 10) if place == axis else slice(None) for place in range(3))]


def small() -> nib.Nifti1Image:
    affine = affine_of((7, 6, 7), (28.0, 30.0, 25.0))
    return image(head((7, 6, 7), affine), affine)


def forms_of_codes(sform: int, qform: int) -> bytes:
    """A sform 20° oblique beside a qform that is not and lies 50 mm aside: no code may choose the wrong one."""
    made = image(affine=affine_of(oblique=20))
    aside = affine_of()
    aside[:3, 3] += 50
    made.header.set_qform(aside, code=1)
    return patched({SFORM_CODE: I2(sform), QFORM_CODE: I2(qform)}, made)


def with_mat(content: bytes):
    """An Analyze pair of SPM with this beside it."""

    def write(folder):
        path = analyze(nib.Spm99AnalyzeImage)(folder)
        path.with_suffix(".mat").write_bytes(content)
        return path

    return write


DOUBTFUL = [
    bytes_case("a header of 300 bytes", lambda: patched({0: np.int32(300)}), "its sizeof_hdr is 300, taken as 348"),
    bytes_case("bitpix against the data type", lambda: patched({DATATYPE + 2: I2(64)}), "bitpix is 64, taken as 16"),
    bytes_case("sform code 6", lambda: forms_of_codes(6, 1), "sform_code is 6, taken as 2", "disagree"),
    bytes_case("sform code 100", lambda: forms_of_codes(100, 0), "sform_code is 100, taken as 2"),
    bytes_case("sform code -1", lambda: forms_of_codes(-1, 1), "sform_code is -1, taken as 0"),
    bytes_case("qform code 9 alone", lambda: forms_of_codes(0, 9), "qform_code is 9, taken as 2"),
    bytes_case("qform code 9, sform code 7", lambda: forms_of_codes(7, 9), "sform_code is 7", "qform_code is 9"),
    bytes_case("codes -1", lambda: forms_of_codes(-1, -1), "sform_code is -1", "qform_code is -1", "check left"),
    bytes_case("qfac -2", lambda: patched({PIXDIM: F4(-2), SFORM_CODE: I2(0)}), "its qfac is -2, taken as -1"),
    bytes_case(
        "pixdim negative, qform alone",
        lambda: patched({PIXDIM + 4: F4(-9), SFORM_CODE: I2(0)}),
        "its pixdim is -9×10×10, taken as 9×10×10",
    ),
    bytes_case(
        "pixdim negative, sform alone", lambda: patched({PIXDIM + 4: F4(-9), QFORM_CODE: I2(0)}), "pixdim is -9×10×10"
    ),
    Case("an empty .mat", with_mat(b""), ("Analyze files store no orientation",)),
    image_case("a float32 voxel of 3e38", lambda: with_voxels({(10, 10, 9): 3e38}), "1 NaN or infinite voxels"),
    image_case("forms 8° apart", lambda: forms_apart(degrees=8), "sform and qform disagree", "the sform is used"),
    image_case("forms 5 mm apart", lambda: forms_apart(shift_mm=5), "sform and qform disagree by up to"),
    image_case(
        "forms apart, different codes", lambda: forms_apart(degrees=8, codes=(1, 4)), "sform and qform disagree"
    ),
    bytes_case("voxels from byte 0", lambda: patched({VOX_OFFSET: F4(0)}), "byte 0 by its header, taken as 352"),
    bytes_case(
        "no form codes",
        lambda: patched({QFORM_CODE: I2(0), SFORM_CODE: I2(0)}),
        "sform and qform codes are 0",
        "check left and right",
    ),
    bytes_case(
        "pixdim against sform",
        lambda: patched({PIXDIM + 4: F4([1, 1, 1]), QFORM_CODE: I2(0)}),
        "pixdim gives voxels of 1×1×1, the sform of 9×10×10",
    ),
    bytes_case(
        "pixdim against sform, with a qform",
        lambda: patched({PIXDIM + 4: F4([1, 1, 1])}),
        "pixdim gives voxels of 1×1×1",
    ),
    bytes_case("pixdim zero", lambda: patched({PIXDIM + 4: F4([0, 0, 0])}), "pixdim gives voxels of"),
    bytes_case("pixdim NaN", lambda: patched({PIXDIM + 4: F4([np.nan] * 3)}), "pixdim gives voxels of"),
    bytes_case("quaternion beyond 1", lambda: patched({QUATERNION: F4([0.9, 0.9, 0.9])}), "quaternion is invalid"),
    bytes_case("quaternion NaN", lambda: patched({QUATERNION: F4([np.nan, 0, 0])}), "quaternion is invalid"),
    Case("Analyze", analyze(nib.AnalyzeImage), ("Analyze files store no orientation",)),
    Case("Analyze of SPM99", analyze(nib.Spm99AnalyzeImage), ("Analyze files store no orientation",)),
    Case("Analyze of SPM2", analyze(nib.Spm2AnalyzeImage), ("Analyze files store no orientation",)),
    image_case(
        "NaN voxels",
        lambda: with_voxels({(0, 0, 0): np.nan, (0, 0, 1): np.nan, (10, 10, 9): np.nan}),
        "3 NaN or infinite voxels were replaced",
    ),
    image_case(
        "infinite voxels",
        lambda: with_voxels({(0, 0, 0): np.inf, (0, 0, 1): -np.inf}),
        "2 NaN or infinite voxels were replaced",
    ),
    image_case(
        "a float64 voxel beyond float32",
        lambda: with_voxels({(10, 10, 9): 1e300}, np.float64),
        "1 NaN or infinite voxels were replaced",
    ),
    bytes_case("slope NaN", lambda: patched({SLOPE: F4(np.nan)}), "scl_slope is nan, taken as 1"),
    bytes_case("slope infinite", lambda: patched({SLOPE: F4(np.inf)}), "scl_slope is inf"),
    bytes_case("intercept NaN", lambda: patched({SLOPE: F4(2), INTERCEPT: F4(np.nan)}), "scl_inter is nan, taken as 0"),
    bytes_case("intercept infinite", lambda: patched({SLOPE: F4(1), INTERCEPT: F4(np.inf)}), "scl_inter is inf"),
    bytes_case("micrometres", in_units(MICROMETRES, 1000), "header is in micrometres"),
    bytes_case("metres", in_units(METRES, 0.001), "header is in metres"),
    bytes_case("micrometres that are none", in_units(MICROMETRES, 1), "says micrometres", "taken as millimetres"),
    *(
        image_case(f"one voxel thick, axis {axis}", lambda axis=axis: thin(axis), "one voxel thick")
        for axis in range(3)
    ),
    image_case("smaller than the stride", small, "smaller than the network's stride of 8"),
    bytes_case(
        "two doubts at once",
        lambda: patched({SLOPE: F4(np.nan), QFORM_CODE: I2(0), SFORM_CODE: I2(0)}),
        "scl_slope is nan",
        "codes are 0",
    ),
]
