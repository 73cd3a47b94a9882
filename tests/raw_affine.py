"""A NIfTI file's affine by the standard's formulas from its raw bytes: no library has mended the header before."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

CODES = ("sform_code", "qform_code")


def raw_header(content: bytes) -> np.void:
    """The header's fields as they are stored; `sizeof_hdr`, or `dim[0]`, says in which byte order."""
    kind = nib.Nifti2Header if content[4:7] in (b"n+2", b"ni2") else nib.Nifti1Header
    little, big = (
        np.frombuffer(content[: kind.sizeof_hdr], kind.template_dtype.newbyteorder(order))[0] for order in "<>"
    )
    if kind.sizeof_hdr in (little["sizeof_hdr"], big["sizeof_hdr"]):
        return little if little["sizeof_hdr"] == kind.sizeof_hdr else big
    return little if 1 <= little["dim"][0] <= 7 else big


def raw_affine(content: bytes) -> np.ndarray | None:
    """The (4, 4) affine in the header's unit, by method 3 or 2 (a code above 0); None where neither form is set."""
    header = raw_header(content)
    affine = np.eye(4)
    if header["sform_code"] > 0:
        affine[:3] = [header[f"srow_{axis}"] for axis in "xyz"]
    elif header["qform_code"] > 0:
        b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
        a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        rotation = [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
        sizes = np.abs(np.array(header["pixdim"][1:4], dtype=float))
        sizes[sizes == 0] = 1
        affine[:3, :3] = rotation * sizes * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
        affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    else:
        return None
    return affine


def content_of(path: Path) -> bytes:
    """A `.nii` or `.nii.gz` file's bytes, unpacked."""
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def check_raw_affine(source: bytes, result: bytes) -> None:
    """A translation lies on its source's grid: no corner is apart by more than float32 rounds."""
    before, after = raw_affine(source), raw_affine(result)
    if before is None:
        assert after is None or not any(raw_header(source)[code] > 0 for code in CODES)
        return
    assert after is not None
    corners = np.array(list(np.ndindex(2, 2, 2))) * np.maximum(raw_header(result)["dim"][1:4].astype(float) - 1, 1)
    there = [corners @ affine[:3, :3].T + affine[:3, 3] for affine in (before, after)]
    smallest = np.linalg.norm(before[:3, :3], axis=0).min()
    assert np.abs(there[0] - there[1]).max() <= 1e-3 * smallest + 1e-5 * np.abs(there[0]).max()
