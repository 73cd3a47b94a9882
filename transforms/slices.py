"""Volumes to stacks of square slices and back: pure array functions, each with its inverse."""

import numpy as np

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the axis of an RAS volume that slicing walks along


def cut_slices(volume: np.ndarray, axis: str) -> np.ndarray:
    """Return an (X, Y, Z) RAS volume as a stack (N, H, W): axial slices are (R, A), coronal (R, S), sagittal (A, S)."""
    return np.moveaxis(volume, AXES[axis], 0)  # (N, H, W)


def stack_slices(slices: np.ndarray, axis: str) -> np.ndarray:
    """Return a stack (N, H, W) as an (X, Y, Z) RAS volume: the inverse of `cut_slices`."""
    return np.moveaxis(slices, 0, AXES[axis])  # (X, Y, Z)


def centre_fit(slices: np.ndarray, height: int, width: int, fill: float) -> np.ndarray:
    """Crop or pad each slice about its centre: (N, h, w) -> (N, height, width)."""
    fitted = np.full((len(slices), height, width), fill, dtype=slices.dtype)
    (target_rows, source_rows), (target_columns, source_columns) = (
        _overlap(slices.shape[1], height),
        _overlap(slices.shape[2], width),
    )
    fitted[:, target_rows, target_columns] = slices[:, source_rows, source_columns]
    return fitted


def _overlap(source: int, target: int) -> tuple[slice, slice]:
    """Return where a line of `source` pixels and a centred one of `target` pixels coincide, in each."""
    shared = min(source, target)
    target_start, source_start = (target - shared) // 2, (source - shared) // 2
    return slice(target_start, target_start + shared), slice(source_start, source_start + shared)


def size_without_cropping(height: int, width: int, size: int, stride: int) -> tuple[int, int]:
    """Return the smallest (height, width) that holds a slice whole: at least `size`, each a multiple of `stride`."""

    def whole(length: int) -> int:
        return size if length <= size else -(-length // stride) * stride

    return whole(height), whole(width)


def occupied_slices(foreground: np.ndarray, min_share: float) -> np.ndarray:
    """Return the indices of the slices of an (N, H, W) mask of which at least `min_share` is foreground."""
    share = foreground.reshape(len(foreground), -1).mean(axis=1)
    return np.flatnonzero((share >= min_share) & (share > 0))


def slices_with_a_fair_share(foreground: np.ndarray) -> np.ndarray:
    """Return the indices of the slices of an (N, H, W) mask with at least a quarter of what the fullest one has."""
    share = foreground.reshape(len(foreground), -1).mean(axis=1)
    return np.flatnonzero(share >= share.max() / 4)


def slices_with_content(slices: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Return (N,) bool: which slices of an (N, H, W) stack in [-1, 1] show anything but air.

    Those with any foreground (a mask of N slices), and, lest the tip of a head be lost for being small, those with
    anything brighter than a quarter of the range.
    """
    return foreground.any(axis=(1, 2)) | (slices.max(axis=(1, 2)) > -0.5)
