"""Volumes to stacks of square slices and back: pure array functions, each with its inverse."""

import numpy as np

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the axis of an RAS volume across its slices


def cut_slices(volume: np.ndarray, axis: str) -> np.ndarray:
    """Return an (X, Y, Z) RAS volume as a stack (N, H, W): axial slices are (R, A), coronal (R, S), sagittal (A, S)."""
    return np.moveaxis(volume, AXES[axis], 0)  # (N, H, W)


def stack_slices(slices: np.ndarray, axis: str) -> np.ndarray:
    """Return a stack (N, H, W) as an (X, Y, Z) RAS volume: the inverse of `cut_slices`."""
    return np.moveaxis(slices, 0, AXES[axis])  # (X, Y, Z)


def contiguous(view: np.ndarray) -> np.ndarray:
    """Return a view with moved or flipped axes as an array in C order, like `np.ascontiguousarray` but faster."""
    if view.flags.c_contiguous:
        return view
    copied = np.empty(view.shape, view.dtype)
    copy_by_planes(copied, view)
    return copied


def copy_by_planes(target: np.ndarray, source: np.ndarray) -> None:
    """Copy an array with moved axes plane by plane along its slowest axis in memory, so that a plane fits a cache."""
    slowest = int(np.argmax(np.abs(source.strides)))
    for target_plane, plane in zip(np.moveaxis(target, slowest, 0), np.moveaxis(source, slowest, 0), strict=True):
        target_plane[...] = plane


def centre_fit(slices: np.ndarray, height: int, width: int, fill: float) -> np.ndarray:
    """Crop or pad each slice symmetrically: (N, h, w) -> (N, height, width); padding has the value `fill`."""
    fitted = np.empty((len(slices), height, width), dtype=slices.dtype)
    target_rows, source_rows = _overlap(slices.shape[1], height)
    target_columns, source_columns = _overlap(slices.shape[2], width)
    for start, stop in ((None, target_rows.start), (target_rows.stop, None)):
        fitted[:, start:stop] = fill
    for start, stop in ((None, target_columns.start), (target_columns.stop, None)):
        fitted[:, target_rows, start:stop] = fill
    copy_by_planes(fitted[:, target_rows, target_columns], slices[:, source_rows, source_columns])
    return fitted


def _overlap(source: int, target: int) -> tuple[slice, slice]:
    """Return the overlap of centred lines of `source` and `target` pixels, as slices of the target and the source."""
    shared = min(source, target)
    target_start, source_start = (target - shared) // 2, (source - shared) // 2
    return slice(target_start, target_start + shared), slice(source_start, source_start + shared)


def size_without_cropping(height: int, width: int, size: int, stride: int) -> tuple[int, int]:
    """Return the smallest (height, width) that contains a slice: at least `size`, above it multiples of `stride`."""

    def padded_length(length: int) -> int:
        return size if length <= size else -(-length // stride) * stride

    return padded_length(height), padded_length(width)


def evenly_spread(count: int, most: int) -> np.ndarray:
    """Return the indices of up to `most` of `count` things in a row, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def occupied_slices(foreground: np.ndarray, min_share: float) -> np.ndarray:
    """Return the indices of the slices of an (N, H, W) mask of which at least `min_share` is foreground."""
    share = foreground.reshape(len(foreground), -1).mean(axis=1)
    return np.flatnonzero((share >= min_share) & (share > 0))


def well_filled_slices(foreground: np.ndarray) -> np.ndarray:
    """Return the indices of the slices of an (N, H, W) mask with at least a quarter of what the fullest one has."""
    share = foreground.reshape(len(foreground), -1).mean(axis=1)
    return np.flatnonzero(share >= share.max() / 4)


def slices_with_content(slices: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Return as (N,) bool which slices of an (N, H, W) stack in [-1, 1] show anything but air.

    These are slices with any foreground (a mask of N slices), or with anything brighter than a quarter of the range, so
    that the small tip of a head is not lost.
    """
    return foreground.any(axis=(1, 2)) | (slices.max(axis=(1, 2)) > -0.5)
