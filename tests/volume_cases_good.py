"""Sound volumes: they come back on their own grid, and nothing is said of them."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
from volume_cases import INTERCEPT, SLOPE, UNITS, Case, affine_of, bytes_case, head, image, image_case, patched, saved

F4, I2 = np.float32, np.int16
SHEAR = np.array([[1, 0.3, 0.1], [0, 1, 0.2], [0, 0, 1]])


def sheared() -> nib.Nifti1Image:
    """A sheared sform, which no qform can hold."""
    return image(affine=affine_of(columns=SHEAR), codes=(0, 1))


def turned(degrees: float) -> nib.Nifti1Image:
    return image(affine=affine_of(oblique=degrees))


def far(offset: float) -> nib.Nifti1Image:
    data, affine = head(), affine_of()
    affine[:3, 3] += offset
    return image(data, affine)


def typed(dtype) -> nib.Nifti1Image:
    data = head()
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 1000
    return image(np.minimum(data, top if top < 1000 else 1000).astype(dtype))


def with_extensions() -> nib.Nifti1Image:
    made = image()
    for code, text in (("comment", b"Jane Doe, born 1970"), ("afni", b"<x/>")):
        made.header.extensions.append(nib.nifti1.Nifti1Extension(code, text))
    return made


def one_volume_in_4d() -> nib.Nifti1Image:
    made = image(head()[..., None], affine_of())
    return made


def sized(shape, spacing=None) -> nib.Nifti1Image:
    spacing = tuple(200 / length for length in shape) if spacing is None else spacing
    affine = affine_of(shape, spacing)
    return image(head(shape, affine), affine)


def scaled(slope: float, intercept: float):
    return bytes_case(
        f"slope {slope:g} and intercept {intercept:g}", lambda: patched({SLOPE: F4(slope), INTERCEPT: F4(intercept)})
    )


def gzip_in_two_members() -> bytes:
    content = image().to_bytes()
    return gzip.compress(content[:1000]) + gzip.compress(content[1000:])


def gzip_with_a_name() -> bytes:
    """As `gzip` writes it: the file's own name and time in the header."""
    content = gzip.compress(image().to_bytes())
    return content[:3] + b"\x08" + struct.pack("<I", 1_700_000_000) + content[8:10] + b"jane.nii\0" + content[10:]


def upper_case_pair(folder: Path) -> Path:
    saved(folder, image(kind=nib.Nifti1Pair), "head.hdr")
    for suffix in (".hdr", ".img"):
        (folder / f"head{suffix}").rename(folder / f"head{suffix.upper()}")
    return folder / "head.IMG"


NAMES = (
    "HEAD.NII.GZ", "Head.Nii", "köpf_脳.nii.gz", "with spaces  two.nii.gz",
    "$(touch pwned); rm -rf `x` & 'q' \"d\".nii.gz",
    "a.b.c.nii.gz", "percent%20s%s{}.nii.gz", "n" * 213 + ".nii.gz", "é" * 120 + ".nii.gz", "new\nline.nii.gz",
    "[1-9]*?.nii.gz", "tab\there.nii",
)  # fmt: skip
DTYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")

GOOD = [
    *(image_case(f"dtype {dtype}", lambda dtype=dtype: typed(np.dtype(dtype))) for dtype in DTYPES),
    *(image_case(f"named {name[:30]!r}", image, file=name) for name in NAMES),
    *(image_case(f"turned by {degrees}°", lambda degrees=degrees: turned(degrees)) for degrees in (8, 30, 45, 120)),
    image_case("sheared", sheared),
    image_case("anisotropic", lambda: sized((25, 21, 9), (8.0, 10.0, 22.0))),
    image_case("sform only", lambda: image(codes=(0, 2))),
    image_case("qform only", lambda: image(codes=(1, 0))),
    image_case("both forms, different codes", lambda: image(codes=(1, 4))),
    image_case("far origin", lambda: far(2000.0)),
    image_case("very far origin", lambda: far(1e6)),
    image_case("NIfTI-1, plain", image, file="head.nii"),
    image_case("NIfTI-2, zipped", lambda: image(kind=nib.Nifti2Image)),
    image_case("NIfTI-2, plain", lambda: image(kind=nib.Nifti2Image), file="head.nii"),
    image_case("NIfTI-1, big endian", lambda: image(endianness=">")),
    image_case("NIfTI-2, big endian", lambda: image(kind=nib.Nifti2Image, endianness=">")),
    image_case("pair, given as .hdr", lambda: image(kind=nib.Nifti1Pair), file="head.hdr"),
    Case("pair, given as .IMG", upper_case_pair),
    image_case("pair, big endian", lambda: image(kind=nib.Nifti1Pair, endianness=">"), file="head.hdr"),
    image_case("pair, NIfTI-2", lambda: image(kind=nib.Nifti2Pair), file="head.hdr"),
    image_case("Analyze with SPM's .mat", lambda: nib.Spm99AnalyzeImage(head(), affine_of()), file="head.hdr"),
    image_case("header extensions", with_extensions),
    image_case("one volume in 4D", one_volume_in_4d),
    image_case("513×511×4", lambda: sized((513, 511, 4))),
    image_case("prime sizes", lambda: sized((23, 19, 17))),
    image_case("odd sizes", lambda: sized((21, 35, 9))),
    image_case("sizes below the network's", lambda: sized((9, 9, 9))),
    *(scaled(slope, intercept) for slope, intercept in ((0, 0), (0, 5), (2, -100), (-1, 900), (1e-3, 0), (0, np.nan))),
    bytes_case("units unknown", lambda: patched({UNITS: np.uint8(0)})),
    bytes_case("units unheard of", lambda: patched({UNITS: np.uint8(5)})),
    bytes_case("gzip in two members", gzip_in_two_members, file="head.nii.gz"),
    bytes_case("gzip with a name", gzip_with_a_name, file="head.nii.gz"),
    bytes_case("gzip with zeros behind", lambda: gzip.compress(image().to_bytes()) + bytes(512), file="head.nii.gz"),
    bytes_case("bytes behind the voxels", lambda: image().to_bytes() + b"more"),
]
