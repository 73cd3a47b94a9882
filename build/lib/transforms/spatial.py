"""Orientation and spacing of volumes: pure array functions, each with its inverse."""

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    ornt_transform,
)

from transforms.slices import contiguous

_TIE = 1e-4  # difference in the sum of three cosines up to which orientations tie, for rounding in headers


def orientation_of(affine: np.ndarray) -> np.ndarray:
    """Return nibabel's (3, 2) orientation: for each voxel axis the nearest world axis, and the direction along it.

    Of the 48 orientations, the one with the highest sum of cosines. nibabel's `io_orientation` resolves ties, as in a
    head turned by 45°, by the order of the stored axes; here their directions decide, so that a head has one canonical
    form however it is stored.
    """
    # Score all orientations by the cosines between voxel axes and world axes.
    directions = affine[:3, :3] / voxel_sizes(affine)
    left, _, right = np.linalg.svd(directions)
    rotation = left @ right  # the nearest rotation, also of a sheared affine (polar decomposition)
    choices = []
    for order in permutations(range(3)):  # voxel axis i along world axis order[i]
        for signs in product((1, -1), repeat=3):
            score = float(np.dot(signs, rotation[order, range(3)]))  # the sum of the three cosines
            choices.append((score, np.column_stack([order, signs])))

    # Of equal scores, choose by the directions of the canonical axes.
    best_score = max(score for score, _ in choices)

    def canonical_directions(orientation: np.ndarray) -> list[float]:
        rotated = directions @ inv_ornt_aff(orientation, (1, 1, 1))[:3, :3]
        return (np.round(rotated, 3) + 0.0).ravel().tolist()

    tied = [orientation for score, orientation in choices if score > best_score - _TIE]
    return max(tied, key=canonical_directions).astype(float)


def to_canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flip and permute axes so that the voxel axes run nearest to right, anterior, superior (RAS); no resampling.

    Args:
        array: (X, Y, Z) voxels in any of the 48 orientations.
        affine: (4, 4) voxel to RAS millimetres.

    Returns:
        The (R, A, S) array and its (4, 4) affine.
    """
    to_ras = orientation_of(affine)
    return contiguous(apply_orientation(array, to_ras)), affine @ inv_ornt_aff(to_ras, array.shape)


def from_canonical(array: np.ndarray, source_affine: np.ndarray) -> np.ndarray:
    """Return an (R, A, S) array in the orientation of `source_affine`: the inverse of `to_canonical`."""
    from_ras = ornt_transform(axcodes2ornt("RAS"), orientation_of(source_affine))
    return apply_orientation(array, from_ras)


def resample_to_shape(array: np.ndarray, shape: Sequence[int], *, low_pass: bool = False) -> np.ndarray:
    """Resample a volume to another number of voxels over the same field of view, linearly and separably.

    The outer faces of the first and last voxels stay where they are (`align_corners=False`). Resampling to the original
    shape is the inverse: exact where the shape does not change, otherwise up to linear interpolation.

    Args:
        array: (X, Y, Z) intensities.
        shape: The new shape.
        low_pass: Whether to widen the interpolation's triangle to the new voxel along axes on which voxels become
            larger, so that detail and noise finer than the new grid are averaged instead of aliased. Other axes are
            not affected.
    """
    if tuple(shape) == array.shape:
        return array
    planes = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]  # (1, X, Y, Z)
    if planes.shape[2:] != tuple(shape[1:]):
        planes = _bilinear(planes, shape[1:], low_pass)
    if planes.shape[1] != shape[0]:  # planes as lines: 2D interpolation costs a quarter of 3D
        planes = _bilinear(planes.flatten(2)[None], (shape[0], shape[1] * shape[2]), low_pass)
    return planes.reshape(tuple(shape)).numpy()


def _bilinear(images: torch.Tensor, size: Sequence[int], low_pass: bool) -> torch.Tensor:
    """Resample (N, C, H, W) images to another (H, W)."""
    coarser = any(new < old for new, old in zip(size, images.shape[2:], strict=True))
    return torch.nn.functional.interpolate(
        images, size=tuple(size), mode="bilinear", align_corners=False, antialias=low_pass and coarser
    )


def shape_at_spacing(shape: Sequence[int], affine: np.ndarray, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Return the number of voxels of `spacing_mm` that fill the field of view: rounded, at least one."""
    extent_mm = np.asarray(shape) * voxel_sizes(affine)
    return tuple(int(count) for count in np.maximum(1, np.round(np.round(extent_mm / np.asarray(spacing_mm), 4))))


def affine_at_shape(affine: np.ndarray, shape: Sequence[int], new_shape: Sequence[int]) -> np.ndarray:
    """Return the affine of `resample_to_shape`'s result: same field of view, `new_shape` voxels."""
    ratio = np.asarray(shape, dtype=float) / np.asarray(new_shape, dtype=float)  # old voxels per new voxel
    index_map = np.diag([*ratio, 1.0])
    index_map[:3, 3] = (ratio - 1) / 2  # the centre of new voxel 0 in old voxel coordinates
    return affine @ index_map
