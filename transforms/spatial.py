"""Orientation, spacing and cropping of volumes: pure array functions, each with its inverse.

A crop box is a (3, 2) integer array, for each axis the first voxel and the one after the last. Its margin around the
head is fixed, so it may extend beyond the volume. The field is the volume's box without empty planes at the border
(`transforms.head_mask.Head.field`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from transforms.head_mask import Head
from transforms.mask_regions import bounding_box
from transforms.slices import contiguous

MARGIN_MM = 10.0  # around the head
MIN_MARGIN = 2  # voxels
OUTER_BOX_REACH_MM = 30.0  # smaller parts of the head lie within this distance of its mask


def to_canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flip and permute the axes of (X, Y, Z) voxels to run nearest to right, anterior, superior; no resampling.

    Returns the (R, A, S) array and its (4, 4) affine, voxel to RAS millimetres.
    """
    to_ras = io_orientation(affine)
    return contiguous(apply_orientation(array, to_ras)), affine @ inv_ornt_aff(to_ras, array.shape)


def from_canonical(array: np.ndarray, source_affine: np.ndarray) -> np.ndarray:
    """Return an (R, A, S) array in the orientation of `source_affine`: the inverse of `to_canonical`."""
    from_ras = ornt_transform(axcodes2ornt("RAS"), io_orientation(source_affine))
    return apply_orientation(array, from_ras)


def resample_to_shape(array: np.ndarray, shape: Sequence[int], *, low_pass: bool = False) -> np.ndarray:
    """Resample a volume (X, Y, Z) to another shape over the same field of view, linearly and separably.

    The outer faces of the first and last voxels stay where they are (`align_corners=False`). Resampling to the original
    shape is the inverse: exact where the shape does not change, otherwise up to linear interpolation. With `low_pass`,
    the interpolation's triangle is as wide as the new voxel along axes on which voxels become larger, so that detail
    and noise finer than the new grid are averaged instead of aliased.
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


# ── cropping ────────────────────────────────────────────────────────────────────────────────────────────────


def box_around(head: Head, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the box of a head with a margin on each side, in the volume's voxels; none along axes of one voxel."""
    margins, reach = (_in_voxels(width_mm, spacing_mm) for width_mm in (MARGIN_MM, OUTER_BOX_REACH_MM))
    bounds = []
    for axis, (mask_bounds, outer_bounds) in enumerate(zip(bounding_box(head.mask), head.outer_box, strict=True)):
        field, is_thick = head.field[axis], head.mask.shape[axis] > 1
        first = min(mask_bounds.start - margins[axis], max(outer_bounds.start - 1, mask_bounds.start - reach[axis]))
        last = max(mask_bounds.stop + margins[axis], min(outer_bounds.stop + 1, mask_bounds.stop + reach[axis]))
        bounds.append([field.start + first, field.start + last] if is_thick else [field.start, field.stop])
    return np.array(bounds)


def _in_voxels(width_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    return np.maximum(MIN_MARGIN, np.ceil(np.round(width_mm / np.asarray(spacing_mm, dtype=float), 3)).astype(int))


def crop_box(volume: np.ndarray, box: np.ndarray, field: Sequence[slice]) -> np.ndarray:
    """Crop a volume (X, Y, Z) to a box; outside `field`, the nearest voxel of the field is repeated."""
    indices = [
        np.clip(np.arange(*bounds), field_bounds.start, field_bounds.stop - 1)
        for bounds, field_bounds in zip(box, field, strict=True)
    ]
    if all(line[0] == start and line[-1] == stop - 1 for line, (start, stop) in zip(indices, box, strict=True)):
        return np.array(volume[tuple(slice(*bounds) for bounds in box)], order="C")  # a copy, which may be changed
    for axis, line in enumerate(indices):
        volume = volume.take(line, axis)
    return volume


def paste_box(cropped: np.ndarray, box: np.ndarray, field: Sequence[slice], shape: Sequence[int], fill: float):
    """Return a volume of `shape` with a crop by `crop_box` pasted back into the field, and `fill` elsewhere."""
    volume = np.full(tuple(shape), fill, dtype=cropped.dtype)
    target_slices, source_slices = [], []
    for (start, stop), bounds in zip(box, field, strict=True):
        first, last = max(start, bounds.start), max(min(stop, bounds.stop), max(start, bounds.start))
        target_slices.append(slice(first, last))
        source_slices.append(slice(first - start, last - start))
    volume[tuple(target_slices)] = cropped[tuple(source_slices)]
    return volume


def field_in_box(box: np.ndarray, field: Sequence[slice]) -> tuple[slice, ...]:
    """Return the part of a cropped box that lies in the field, as slices; a whole axis where they do not overlap."""
    inside = []
    for (start, stop), bounds in zip(box, field, strict=True):
        first, last = max(start, bounds.start) - start, min(stop, bounds.stop) - start
        inside.append(slice(int(first), int(last)) if last > first else slice(0, int(stop - start)))
    return tuple(inside)


def resample_mask(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample a mask to another shape over the same field of view, by nearest neighbour."""
    for axis, (length, new_length) in enumerate(zip(array.shape, shape, strict=True)):
        if new_length != length:
            array = array.take(_nearest_indices(length, new_length), axis)
    return array


def resample_field(inside: Sequence[slice], shape: Sequence[int], new_shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of `field_in_box` on a resampled grid."""
    resampled = []
    for bounds, length, new_length in zip(inside, shape, new_shape, strict=True):
        old_indices = _nearest_indices(length, new_length)
        planes = np.flatnonzero((old_indices >= bounds.start) & (old_indices < bounds.stop))
        resampled.append(slice(int(planes[0]), int(planes[-1]) + 1) if planes.size else slice(0, new_length))
    return tuple(resampled)


def repeat_edges(volume: np.ndarray, inside: Sequence[slice]) -> np.ndarray:
    """Return a volume whose voxels outside the field repeat the field's nearest voxel."""
    if all(bounds == slice(0, length) for bounds, length in zip(inside, volume.shape, strict=True)):
        return volume
    box = np.array([[0, length] for length in volume.shape])
    return crop_box(volume, box, inside)


def fill_outside(volume: np.ndarray, inside: Sequence[slice], value: float) -> None:
    """Set the voxels outside the field to a value, in place."""
    for axis, bounds in enumerate(inside):
        for outside in (slice(0, bounds.start), slice(bounds.stop, None)):
            volume[(slice(None),) * axis + (outside,)] = value


def _nearest_indices(length: int, new_length: int) -> np.ndarray:
    return np.minimum(length - 1, ((np.arange(new_length) + 0.5) * length / new_length).astype(int))
