"""Volumes as they arrive: sound, doubtful and bad ones, each a function that writes it and what must come of it.

The phantom is a small head that looks different from every side, so that a flip or a swap shows.
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import ixi_like
import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff

SHAPE = (20, 22, 18)
SPACING_MM = (9.0, 10.0, 10.0)
ORIENTATIONS = [
    np.column_stack([order, signs]).astype(float)
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]

# Bytes of a little-endian NIfTI-1 header.
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, INTERCEPT, UNITS = 40, 70, 76, 108, 112, 116, 123
QFORM_CODE, SFORM_CODE, QUATERNION, SROW = 252, 254, 256, 280


@dataclass(frozen=True)
class Case:
    """A volume to give to the command.

    Attributes:
        name: As the test is called.
        write: Writes into an empty folder and returns what to give as input.
        says: Parts of the one message, a warning or a refusal; none for a sound volume.
    """

    name: str
    write: Callable[[Path], Path]
    says: tuple[str, ...] = ()


def head(shape=SHAPE, affine=None, dtype=np.int16) -> np.ndarray:
    """The phantom's voxels on a grid."""
    return ixi_like.head(shape, affine_of(shape) if affine is None else affine, "T1").astype(dtype)


def affine_of(shape=SHAPE, spacing=SPACING_MM, oblique=0.0, columns=None) -> np.ndarray:
    return ixi_like.centred_affine(shape, np.eye(3) if columns is None else columns, spacing, oblique)


def image(data=None, affine=None, kind=nib.Nifti1Image, codes=(1, 1), endianness="<") -> nib.Nifti1Image:
    """A NIfTI image of the phantom in millimetres, both forms set to the affine; codes are (qform, sform)."""
    affine = affine_of() if affine is None else affine
    data = head(affine=affine) if data is None else data
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(data.dtype)
    made = kind(data, affine, header, dtype=data.dtype)
    made.header.set_xyzt_units("mm", "sec")
    made.header.set_qform(affine, code=codes[0])
    made.header.set_sform(affine, code=codes[1])
    return made


def saved(folder: Path, made: nib.Nifti1Image, name: str = "head.nii.gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(made, nib.Nifti1Image):  # nibabel's own saving changes the case of suffixes
        content = made.to_bytes()
        (folder / name).write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    else:
        nib.save(made, folder / name)
    return folder / name


def patched(fields: dict[int, np.ndarray], made: nib.Nifti1Image | None = None) -> bytes:
    """A sound little-endian NIfTI-1 file with some bytes of its header replaced."""
    content = bytearray((made or image()).to_bytes())
    for position, value in fields.items():
        new = np.asarray(value).tobytes()
        content[position : position + len(new)] = new
    return bytes(content)


def bytes_case(name, content: Callable[[], bytes], *says, file="head.nii") -> Case:
    """A case that is one file's bytes."""

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content())
        return folder / file

    return Case(name, write, says)


def image_case(name, make: Callable[[], nib.Nifti1Image], *says, file="head.nii.gz") -> Case:
    """A case that is one image."""
    return Case(name, lambda folder: saved(folder, make(), file), says)


def stored_as(orientation: np.ndarray, made: nib.Nifti1Image, codes=(1, 1)) -> nib.Nifti1Image:
    """The same head with its voxel axes in another of the 48 orders and directions."""
    data = apply_orientation(np.asarray(made.dataobj), orientation)
    return image(data, made.affine @ inv_ornt_aff(orientation, made.shape), codes=codes)
