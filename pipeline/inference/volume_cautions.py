"""Cautions about a volume's shape: empty planes around the head, a single slice, slices smaller than the stride."""

from collections.abc import Mapping

import numpy as np

from transforms.head_mask import find_head, without_empty_planes
from transforms.slices import AXES


def margin_cautions(volume: np.ndarray) -> list[str]:
    """Return a caution about empty planes, for models whose chain does not cut volumes to the head (version 1)."""
    field = without_empty_planes(volume)
    empty = sum(length - (extent.stop - extent.start) for extent, length in zip(field, volume.shape, strict=True))
    if empty == 0 or min(volume.shape) == 1 or not _is_noisy(volume, field):
        return []
    return [f"has {empty} empty planes around what was scanned, and this model's result depends on how many"]


def _is_noisy(volume: np.ndarray, field: tuple[slice, ...]) -> bool:
    """Whether the air around the head holds measured noise, so that empty planes differ from it."""
    return not find_head(volume[field]).masked


def scanned_shape(data: Mapping[str, object], axis: str) -> tuple[int, int]:
    """Return height and width of the slices within the field of view."""
    height, width = data["image_before_fit"]
    if "image_inside" not in data:
        return height, width
    rows, columns = (extent for number, extent in enumerate(data["image_inside"]) if number != AXES[axis])
    return rows.stop - rows.start, columns.stop - columns.start


def size_cautions(shape: tuple[int, ...], slice_shape: tuple[int, int], stride: int) -> list[str]:
    """Return a caution about volumes one voxel thick and slices smaller than the network's stride."""
    if min(shape) == 1:
        description = f"is one voxel thick ({'×'.join(str(length) for length in shape)})"
    elif min(slice_shape) < stride:
        height, width = slice_shape
        description = f"has slices of {height}×{width} pixels, smaller than the network's stride of {stride}"
    else:
        return []
    return [f"{description}, so look at the result with care"]
