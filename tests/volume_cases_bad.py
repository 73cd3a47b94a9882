"""Bad volumes: each is refused in one line with the file, the reason and the remedy, and nothing is left behind."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
from volume_cases import (
    DATATYPE,
    DIM,
    PIXDIM,
    QFORM_CODE,
    QUATERNION,
    SFORM_CODE,
    SLOPE,
    SROW,
    VOX_OFFSET,
    Case,
    bytes_case,
    head,
    image,
    image_case,
    patched,
    saved,
)

F4, I2 = np.float32, np.int16
CANNOT_BE_ROOT = "an unreadable file"


def zipped() -> bytes:
    return gzip.compress(image().to_bytes(), mtime=0)


def with_bad_checksum() -> bytes:
    content = bytearray(zipped())
    content[-8] ^= 1
    return bytes(content)


def with_damaged_middle() -> bytes:
    content = bytearray(zipped())
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def claiming(shape, kind=nib.Nifti1Header) -> bytes:
    header = kind()
    header.set_data_dtype(np.float64)
    header.set_data_shape(shape)
    header["magic"] = b"n+1" if kind is nib.Nifti1Header else header["magic"]
    header["vox_offset"] = 352 if kind is nib.Nifti1Header else 544
    return header.binaryblock + bytes(2000)


def with_sform(rows) -> bytes:
    return patched({SROW: F4(np.hstack([np.array(rows, float), np.zeros((3, 1))]))})


def colour() -> nib.Nifti1Image:
    rgb = np.zeros((6, 6, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nib.Nifti1Image(rgb, np.eye(4))


def made_of(data) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.asarray(data), np.diag([9.0, 10.0, 10.0, 1.0]))


def missing(folder: Path) -> Path:
    return folder / "head.nii.gz"


def dangling(folder: Path) -> Path:
    (folder / "head.nii.gz").symlink_to(folder / "gone.nii.gz")
    return folder / "head.nii.gz"


def looping(folder: Path) -> Path:
    (folder / "head.nii.gz").symlink_to("other.nii.gz")
    (folder / "other.nii.gz").symlink_to("head.nii.gz")
    return folder / "head.nii.gz"


def unreadable(folder: Path) -> Path:
    path = saved(folder, image())
    path.chmod(0)
    return path


def folder_named_like_a_file(folder: Path) -> Path:
    (folder / "head.nii.gz").mkdir()
    return folder / "head.nii.gz"


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "head.nii.gz")
    return folder / "head.nii.gz"


def twins(folder: Path) -> Path:
    saved(folder, image(), "sub-01.nii")
    saved(folder, image(), "sub-01.nii.gz")
    return folder


def pair_without(suffix: str):
    def write(folder: Path) -> Path:
        saved(folder, image(kind=nib.Nifti1Pair), "head.hdr")
        (folder / f"head{suffix}").unlink()
        return folder / ("head.hdr" if suffix == ".img" else "head.img")

    return write


def truncated_pair(folder: Path) -> Path:
    saved(folder, image(kind=nib.Nifti1Pair), "head.hdr")
    voxels = folder / "head.img"
    voxels.write_bytes(voxels.read_bytes()[:-1])
    return folder / "head.hdr"


def too_long(folder: Path) -> Path:
    return folder / ("n" * 300 + ".nii.gz")


def analyze_with_mat(content: bytes):
    def write(folder: Path) -> Path:
        saved(folder, nib.Spm99AnalyzeImage(head(), np.diag([-9.0, 10.0, 10.0, 1.0])), "head.img")
        (folder / "head.mat").write_bytes(content)
        return folder / "head.hdr"

    return write


def one_bright_voxel() -> nib.Nifti1Image:
    data = np.zeros((20, 20, 20), np.int16)
    data[9, 9, 9] = 900
    return made_of(data)


def float32_to(low: float, high: float) -> nib.Nifti1Image:
    data = head(dtype=np.float64)
    data = (data - data.min()) / (data.max() - data.min())
    return image((low + data * (high - low)).astype(np.float32))


def float64_scaled(factor: float, offset: float = 0.0) -> nib.Nifti1Image:
    return image(head(dtype=np.float64) * factor + offset)


def header_of_pair() -> bytes:
    return gzip.compress(image(kind=nib.Nifti1Pair).header.binaryblock)


SCAN = "give a scan, no mask"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
AGAIN = "again"
CONVERT = "convert"
REPAIR = "repair its header"

BAD = [
    bytes_case("truncated .nii", lambda: image().to_bytes()[:-1], "truncated", AGAIN),
    bytes_case("half a .nii", lambda: image().to_bytes()[:5000], "truncated", AGAIN),
    bytes_case("truncated .nii.gz", lambda: zipped()[:-100], "truncated", AGAIN, file="head.nii.gz"),
    bytes_case("half a .nii.gz", lambda: zipped()[:2000], "truncated", AGAIN, file="head.nii.gz"),
    bytes_case("without gzip's trailer", lambda: zipped()[:-8], "truncated", AGAIN, file="head.nii.gz"),
    bytes_case("gzip checksum", with_bad_checksum, "damaged gzip data", AGAIN, file="head.nii.gz"),
    bytes_case("gzip damaged inside", with_damaged_middle, "damaged", AGAIN, file="head.nii.gz"),
    bytes_case("gzip with text behind", lambda: zipped() + b"text", "damaged gzip", AGAIN, file="head.nii.gz"),
    bytes_case("gzip of nothing", lambda: gzip.compress(b""), "an empty file", AGAIN, file="head.nii.gz"),
    bytes_case("header without data", lambda: image().to_bytes()[:352], "claims 20×22×18 voxels, more than", AGAIN),
    bytes_case("header without data, zipped", lambda: gzip.compress(image().to_bytes()[:352]), "truncated", AGAIN,
               file="head.nii.gz"),
    bytes_case("a header but for its last byte", lambda: image().to_bytes()[:347], "copy it again where it is cut off"),
    bytes_case("an intercept that drowns the values", lambda: patched({SLOPE: F4([1, 1e38])}), "beyond ±1e+30"),
    bytes_case("half a header", lambda: image().to_bytes()[:200], "not a NIfTI volume", AGAIN),
    bytes_case("30000³", lambda: claiming((30000,) * 3), "claims 30000×30000×30000 voxels, more than the file", AGAIN),
    bytes_case("30000³, zipped", lambda: gzip.compress(claiming((30000,) * 3)), "claims 30000×30000×30000", AGAIN,
               file="head.nii.gz"),
    bytes_case("2^40 voxels in NIfTI-2", lambda: claiming((2**40, 1, 1), nib.Nifti2Header), "more than the file"),
    bytes_case("text", lambda: b"subject 7 was tired\n" * 40, "something else", CONVERT, file="head.nii.gz"),
    bytes_case("HTML", lambda: b"<!DOCTYPE html><html><body>404</body></html>", "a web page", file="head.nii.gz"),
    bytes_case("git-lfs pointer", lambda: LFS, "Git LFS pointer", "run `git lfs pull`", file="head.nii.gz"),
    bytes_case("gzip twice", lambda: gzip.compress(zipped()), "with gzip once more; unpack", file="head.nii.gz"),
    bytes_case("a compressed .hdr", header_of_pair, "the header of a .hdr/.img pair; unpack it", file="head.hdr.gz"),
    bytes_case("gzip named .hdr", zipped, "compressed with gzip once more; unpack it", file="head.hdr"),
    Case("a .mat of 10 bytes", analyze_with_mat(b"0123456789"), ("not a readable volume", CONVERT)),
    bytes_case("much behind the voxels", lambda: gzip.compress(image().to_bytes() + bytes(65 << 20), 1),
               "more than 64 MiB behind its 20×22×18 voxels", AGAIN, file="head.nii.gz"),
    image_case("a single bright voxel", one_bright_voxel, "the foreground (1 voxels)", SCAN),
    image_case("two voxels", lambda: made_of(np.array([1, 2], np.int16).reshape(1, 2, 1)), "(1 voxels)", SCAN),
    bytes_case("DICOM", lambda: bytes(128) + b"DICM" + bytes(500), "a DICOM file", "dcm2niix"),
    bytes_case("gzip named .nii", zipped, "is compressed (gzip)", "rename it to head.nii.gz"),
    bytes_case("plain named .nii.gz", lambda: image().to_bytes(), "is not compressed", "rename it to head.nii",
               file="head.nii.gz"),
    bytes_case("single file named .hdr", lambda: image().to_bytes(), "give it the suffix .nii", file="head.hdr"),
    bytes_case("zero bytes", lambda: b"", "an empty file", AGAIN),
    bytes_case("zero bytes, zipped", lambda: b"", "an empty file", AGAIN, file="head.nii.gz"),
    bytes_case("only zeros", lambda: bytes(5000), "not a NIfTI volume", CONVERT),
    bytes_case("negative dims", lambda: patched({DIM: I2([3, -20, 22, 18])}), "has no voxels (-20×22×18)", "export"),
    bytes_case("two negative dims", lambda: patched({DIM: I2([3, -20, -22, 18])}), "has no voxels", "export"),
    bytes_case("zero dims", lambda: patched({DIM: I2([3, 20, 0, 18])}), "has no voxels (20×0×18)", "export"),
    bytes_case("no dims", lambda: patched({DIM: I2([0, 0, 0, 0])}), "head.nii: "),
    bytes_case("unknown datatype", lambda: patched({DATATYPE: I2(77)}), "not a readable volume", "77", CONVERT),
    bytes_case("float128", lambda: patched({DATATYPE: I2(1536)}), "data code 1536 not supported", CONVERT),
    bytes_case("voxels from byte -5000", lambda: patched({VOX_OFFSET: F4(-5000)}), "head.nii: ", CONVERT),
    bytes_case("voxels from byte NaN", lambda: patched({VOX_OFFSET: F4(np.nan)}), "head.nii: ", CONVERT),
    bytes_case("voxels from byte inf", lambda: patched({VOX_OFFSET: F4(np.inf)}), "head.nii: ", CONVERT),
    bytes_case("singular affine", lambda: with_sform([[1, 1, 0], [0, 0, 0], [0, 0, 1]]), "is singular", REPAIR),
    bytes_case("zero affine", lambda: with_sform(np.zeros((3, 3))), "measure 0×0×0 mm", REPAIR),
    bytes_case("NaN affine", lambda: with_sform([[1, 0, 0], [0, np.nan, 0], [0, 0, 1]]), "NaN or infinite", REPAIR),
    bytes_case("infinite affine", lambda: with_sform([[1, 0, 0], [0, np.inf, 0], [0, 0, 1]]), "NaN or inf", REPAIR),
    bytes_case("invalid quaternion alone", lambda: patched({QUATERNION: F4([0.9] * 3), SFORM_CODE: I2(0)}), CONVERT),
    bytes_case("voxels of 99 mm", lambda: with_sform(np.eye(3) * 99), "mm long by its affine, as no head is", REPAIR),
    bytes_case("voxels of 1 km", lambda: with_sform(np.eye(3) * 1e6), "which cannot be", REPAIR),
    bytes_case("pixdim NaN alone",
               lambda: patched({PIXDIM + 4: F4([np.nan] * 3), QFORM_CODE: I2(0), SFORM_CODE: I2(0)}), "NaN", REPAIR),
    image_case("RGB", colour, "colour voxels", "save"),
    image_case("complex", lambda: image(head(dtype=np.complex64)), "complex voxels", "save its magnitude"),
    image_case("1D", lambda: made_of(np.arange(20, dtype=np.int16)), "1 dimensions", "give a volume"),
    image_case("2D", lambda: made_of(head()[:, :, 9]), "2 dimensions (20×22)", "give a volume"),
    image_case("3 volumes in 4D", lambda: made_of(np.stack([head()] * 3, -1)), "a series of 3 volumes", "extract one"),
    image_case("constant", lambda: made_of(np.full((20, 20, 20), 7, np.int16)), "the same value, 7"),
    image_case("float32 of 0 to 3e38", lambda: float32_to(0, 3e38), "the same value, 0"),
    image_case("float32 of -3.3e38 to 3.3e38", lambda: float32_to(-3.3e38, 3.3e38), "NaN or infinite"),
    image_case("float32 near 1e-40", lambda: float32_to(0, 1e-40), "too close together"),
    bytes_case("a slope of 1e-43", lambda: patched({SLOPE: F4(1e-43)}), "too close together"),
    image_case("float64 of 1e300", lambda: float64_scaled(1e297), "same value, 0"),
    image_case("float64 of 1e-300", lambda: float64_scaled(1e-300), "the same value, 0"),
    image_case("float64 on 1e12", lambda: float64_scaled(1, 1e12), "the same value, 1e+12"),
    image_case("all zero", lambda: made_of(np.zeros((20, 20, 20), np.float32)), "the same value, 0"),
    image_case("all NaN", lambda: made_of(np.full((20, 20, 20), np.nan, np.float32)), "NaN or infinite", "export"),
    image_case("all infinite", lambda: made_of(np.full((20, 20, 20), np.inf, np.float32)), "NaN or infinite", "export"),
    Case("missing file", missing, ("no such file", "check the path")),
    Case("a name that is too long", too_long, ("cannot be read", "check its name")),
    Case("dangling link", dangling, ("no such file, or a link to nowhere",)),
    Case("looping link", looping, ("cannot be read", "check its name")),
    Case(CANNOT_BE_ROOT, unreadable, ("Permission denied", "permissions")),
    Case("folder named like a file", folder_named_like_a_file, ("no volumes (.nii.gz, .nii, .hdr, ",)),
    Case("empty folder", empty_folder, ("no volumes (.nii.gz, .nii, .hdr, ", "check the path")),
    Case("a pipe", pipe, ("is a pipe or a device", "give a .nii")),
    Case(".nii beside .nii.gz", twins, ("sub-01.nii and sub-01.nii.gz would be one volume", "move one away")),
    Case("pair without .img", pair_without(".img"), ("its head.img is missing", "side by side")),
    Case("pair without .hdr", pair_without(".hdr"), ("its head.hdr is missing", "side by side")),
    Case("truncated pair", truncated_pair, ("head.img: truncated", AGAIN)),
]  # fmt: skip
