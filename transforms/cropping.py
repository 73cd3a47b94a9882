"""A box around the head, cut out of a volume and put back: pure array functions.

A box is a (3, 2) array of whole numbers, for each axis the first voxel and the one after the last. It may reach beyond
the volume, for it has the same margin around the head whatever the volume has.
"""

from collections.abc import Sequence

import numpy as np

from transforms.head_mask import Head, tight_box

MARGIN_MM = 10.0  # around the head
LEAST_MARGIN = 2  # voxels
REACH_MM = 30.0  # beyond the mask, within which smaller parts of the head lie; what is farther off is no part of it


def box_around(head: Head, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the box of a head and its margin on each side, in the volume's voxels; none along an axis of one voxel.

    Args:
        head: With a mask that is not empty.
        spacing_mm: Of the volume's voxels.
    """
    margins, reach = (_voxels(width_mm, spacing_mm) for width_mm in (MARGIN_MM, REACH_MM))
    bounds = []
    for axis, (own, parts) in enumerate(zip(tight_box(head.mask), head.parts, strict=True)):
        field, thick = head.field[axis], head.mask.shape[axis] > 1
        first = min(own.start - margins[axis], max(parts.start - 1, own.start - reach[axis]))
        last = max(own.stop + margins[axis], min(parts.stop + 1, own.stop + reach[axis]))
        bounds.append([field.start + first, field.start + last] if thick else [field.start, field.stop])
    return np.array(bounds)


def _voxels(width_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    return np.maximum(LEAST_MARGIN, np.ceil(np.round(width_mm / np.asarray(spacing_mm, dtype=float), 3)).astype(int))


def cut(volume: np.ndarray, box: np.ndarray, field: Sequence[slice]) -> np.ndarray:
    """Cut a box out of a volume; where it reaches beyond `field`, the nearest voxel of the field is repeated.

    Args:
        volume: (X, Y, Z).
        box: (3, 2); see above.
        field: The box of the volume that holds something.
    """
    within = [np.clip(np.arange(*bounds), own.start, own.stop - 1) for bounds, own in zip(box, field, strict=True)]
    if all(line[0] == start and line[-1] == stop - 1 for line, (start, stop) in zip(within, box, strict=True)):
        return np.ascontiguousarray(volume[tuple(slice(*bounds) for bounds in box)])
    for axis, line in enumerate(within):
        volume = volume.take(line, axis)
    return volume


def put_back(cropped: np.ndarray, box: np.ndarray, field: Sequence[slice], shape: Sequence[int], fill: float):
    """Return a volume of a shape with what `cut` took from its field back in its place, and `fill` everywhere else."""
    volume = np.full(tuple(shape), fill, dtype=cropped.dtype)
    into, taken = [], []
    for (start, stop), own in zip(box, field, strict=True):
        first, last = max(start, own.start), max(min(stop, own.stop), max(start, own.start))
        into.append(slice(first, last))
        taken.append(slice(first - start, last - start))
    volume[tuple(into)] = cropped[tuple(taken)]
    return volume


def inside_of(box: np.ndarray, field: Sequence[slice]) -> tuple[slice, ...]:
    """Return which voxels of a cut box lie in the field, as slices of the box; all of an axis where none does."""
    inside = []
    for (start, stop), own in zip(box, field, strict=True):
        first, last = max(start, own.start) - start, min(stop, own.stop) - start
        inside.append(slice(int(first), int(last)) if last > first else slice(0, int(stop - start)))
    return tuple(inside)


def nearest(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample a mask to another shape over the same field of view: each new voxel is the old one it lies in."""
    for axis, (length, new) in enumerate(zip(array.shape, shape, strict=True)):
        if new != length:
            array = array.take(_old_voxels(length, new), axis)
    return array


def nearest_inside(inside: Sequence[slice], shape: Sequence[int], new_shape: Sequence[int]) -> tuple[slice, ...]:
    """Return which planes of a resampled grid lie in the field, from `inside_of` before resampling."""
    resampled = []
    for own, length, new in zip(inside, shape, new_shape, strict=True):
        old = _old_voxels(length, new)
        planes = np.flatnonzero((old >= own.start) & (old < own.stop))
        resampled.append(slice(int(planes[0]), int(planes[-1]) + 1) if planes.size else slice(0, new))
    return tuple(resampled)


def spread_outwards(volume: np.ndarray, inside: Sequence[slice]) -> np.ndarray:
    """Return a volume in which what lies beyond the field repeats the field's nearest voxel."""
    if all(own == slice(0, length) for own, length in zip(inside, volume.shape, strict=True)):
        return volume
    box = np.array([[0, length] for length in volume.shape])
    return cut(volume, box, inside)


def blacken_beyond(volume: np.ndarray, inside: Sequence[slice], value: float) -> None:
    """Set what lies beyond the field to a value, in place."""
    for axis, own in enumerate(inside):
        for outside in (slice(0, own.start), slice(own.stop, None)):
            volume[(slice(None),) * axis + (outside,)] = value


def _old_voxels(length: int, new: int) -> np.ndarray:
    return np.minimum(length - 1, ((np.arange(new) + 0.5) * length / new).astype(int))
