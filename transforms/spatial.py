"""Orientation and spacing of volumes: pure array functions, each with its inverse."""

from collections.abc import Sequence

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)


def to_canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flip and permute axes so that the voxel axes run nearest to right, anterior, superior (RAS); no resampling.

    Args:
        array: (X, Y, Z) voxels in any of the 48 orientations.
        affine: (4, 4) voxel to RAS millimetres.

    Returns:
        The (R, A, S) array and its (4, 4) affine.
    """
    to_ras = io_orientation(affine)
    return apply_orientation(array, to_ras), affine @ inv_ornt_aff(to_ras, array.shape)


def from_canonical(array: np.ndarray, source_affine: np.ndarray) -> np.ndarray:
    """Bring an (R, A, S) array back into the orientation of `source_affine`: the inverse of `to_canonical`."""
    back = ornt_transform(axcodes2ornt("RAS"), io_orientation(source_affine))
    return apply_orientation(array, back)


def resample_to_shape(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample a volume to another number of voxels over the same field of view, linearly and separably.

    The outer faces of the first and last voxels stay where they are (`align_corners=False`). Calling it again with
    the first shape is the inverse: exact where the shape does not change, linear interpolation otherwise.
    """
    if tuple(shape) == array.shape:
        return array
    volume = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]  # (1, 1, X, Y, Z)
    resampled = torch.nn.functional.interpolate(volume, size=tuple(shape), mode="trilinear", align_corners=False)
    return resampled[0, 0].numpy()


def shape_at_spacing(shape: Sequence[int], affine: np.ndarray, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Return how many voxels of `spacing_mm` fill the field of view: rounded, at least one."""
    extent_mm = np.asarray(shape) * voxel_sizes(affine)
    return tuple(int(count) for count in np.maximum(1, np.round(extent_mm / np.asarray(spacing_mm))))


def affine_at_shape(affine: np.ndarray, shape: Sequence[int], new_shape: Sequence[int]) -> np.ndarray:
    """Return the affine of `resample_to_shape`'s result: same field of view, `new_shape` voxels."""
    ratio = np.asarray(shape, dtype=float) / np.asarray(new_shape, dtype=float)  # old voxels per new voxel
    index_map = np.diag([*ratio, 1.0])
    index_map[:3, 3] = (ratio - 1) / 2  # the centre of new voxel 0 in old voxel coordinates
    return affine @ index_map
