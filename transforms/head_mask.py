"""The head in a volume, whatever surrounds it: noisy air, empty planes, or a background of one value.

The mask must depend on the head alone. Planes of one value at the volume's border are left out first. Then values that
fill whole areas of the border (a mask's 0, a scanner's -1024 outside its circle) are recognised as background. Air has
a small spread of intensities, darker than the head, on all sides; without air, everything but the background is head.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from transforms.mask_regions import (
    MARGIN,
    Box,
    bounding_box,
    close_gaps,
    fill_cavities,
    with_margin,
    without_margin,
    without_specks,
)
from transforms.slices import contiguous

GAP_RADIUS = 2  # voxels; gaps up to twice as wide are closed
HEAD_THRESHOLD = 0.15  # head is brighter than this share of the way from air to typical tissue
MIN_BORDER_SHARE = 0.05  # smallest share of the border's voxels with a background's value
MIN_PADDING_SHARE = 0.001  # smallest share of all voxels for padding, which has the volume's lowest value
MIN_COHERENCE = 0.8  # share of a background's voxels with a neighbour in it; integer noise has less
NOISE_SHARE = 0.02  # share of specks outside the background above which these are noise
RIM_VOXELS = 2  # width in which air is searched for next to the background
MIN_REGION_SHARE = 0.001  # regions smaller than this share of the largest one do not count to the head
MAX_AIR_SPREAD = 0.15  # spread of the darker half of candidate air, as a share of the way from air to tissue
THINNED_LENGTH = 64  # voxels along each axis of the thinned volume that air and tissue are estimated from
BINS, LAST_PERCENTILE = 256, 99.9  # bins of the first threshold's histogram, and its last percentile
MAX_ROUNDS = 8  # rounds of estimating air and tissue
MAX_HEAD_SHARE_OF_BORDER = 0.75  # with a larger share of the border in the head there is no air around it


@dataclass(frozen=True)
class Head:
    """The head in a volume; both masks are (X, Y, Z) bool and cover `field` only."""

    field: Box  # of the volume without empty planes at its border
    mask: np.ndarray  # the head, filled
    outer_box: Box  # of the head and of smaller regions that the mask leaves out, such as the tip of a nose
    blank: np.ndarray | None = None  # voxels without a measurement, of a background's or a padding's value
    masked: bool = False  # whether everything but blank voxels is head, as after skull stripping, without any air
    warnings: tuple[str, ...] = ()  # on what is doubtful about the mask


def find_head(volume: np.ndarray) -> Head:
    """Find the head (or whatever was scanned) in a volume (X, Y, Z), filled; ValueError: the volume is constant."""
    if volume.min() == volume.max():
        raise ValueError(f"every voxel has the same value, {volume.flat[0]:g}: there is nothing to translate in it")
    # Leave out empty planes at the border.
    field = without_empty_planes(volume)
    inner = contiguous(volume[field])
    if inner.min() == inner.max():
        full_mask = np.ones(inner.shape, dtype=bool)
        return Head(field, full_mask, bounding_box(full_mask), masked=True)

    # A background without air next to the head was masked: the rest is the head.
    background, blank = blank_voxels(inner)
    air = None if background is None else _air_intensity(inner, background)
    if background is not None and air is None:
        return Head(field, filled_mask(~background), _outer_box(~background), blank, masked=True)

    # Otherwise the head is what is brighter than air.
    if blank is not None:  # single voxels of noise may have a background's value
        blank = without_margin(without_specks(with_margin(blank)))
    bright = _brighter_than_air(inner, blank, air)
    mask = filled_mask(bright)
    warnings: tuple[str, ...] = ()
    if np.mean([face.mean() for face in _border_planes(mask)] or [0.0]) > MAX_HEAD_SHARE_OF_BORDER:
        warnings = ("no air, darker than the head, is around it, so where the head ends cannot be told",)
    return Head(field, mask, _outer_box(bright), blank, warnings=warnings)


def without_empty_planes(volume: np.ndarray) -> Box:
    """Return the box of a volume without planes of a single value at its border, which are removed one by one.

    All removed planes have the value of the first one, so that a uniform object in an empty volume remains.
    """
    bounds = [[0, length] for length in volume.shape]
    value, has_shrunk = None, True
    while has_shrunk:
        has_shrunk = False
        for axis, bound in enumerate(bounds):
            for end, step in ((0, 1), (1, -1)):
                while bound[1] - bound[0] > 1:
                    plane = _plane(volume, bounds, axis, bound[0] if end == 0 else bound[1] - 1)
                    if plane.size == 1 or not (plane == (plane.flat[0] if value is None else value)).all():
                        break
                    value, has_shrunk = plane.flat[0], True
                    bound[end] += step
    return tuple(slice(*bound) for bound in bounds)


def _plane(volume: np.ndarray, bounds: list[list[int]], axis: int, index: int) -> np.ndarray:
    indices: list[slice | int] = [slice(*bound) for bound in bounds]
    indices[axis] = index
    return volume[tuple(indices)]


def blank_voxels(volume: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return masks of a volume's background, and of its background or padding; None where there are none.

    A background's values fill areas of the border (`MIN_BORDER_SHARE`). Padding is the volume's lowest value, where it
    fills regions anywhere (`MIN_PADDING_SHARE`). Integer noise also repeats values, but fills no areas.
    """
    background = None
    for value in _border_values(volume):
        is_value = volume == value
        background = is_value if background is None else background | is_value
    is_lowest = volume == volume.min()
    count = np.count_nonzero(is_lowest)
    blank = background
    if count >= MIN_PADDING_SHARE * volume.size and _coherence([is_lowest]) >= MIN_COHERENCE:
        blank = is_lowest if background is None else background | is_lowest
    return (None, None) if blank is None or blank.all() else (background, blank)


def _border_values(volume: np.ndarray) -> Iterator[np.generic]:
    """Yield the values that fill areas of the border."""
    faces = list(_border_planes(volume))
    if not faces:
        return
    values, counts = np.unique(np.concatenate([face.ravel() for face in faces]), return_counts=True)
    for value in values[counts >= MIN_BORDER_SHARE * counts.sum()]:
        if _coherence([face == value for face in faces]) >= MIN_COHERENCE:
            yield value


def _border_planes(volume: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the two outermost planes along each axis of more than one voxel."""
    for axis, length in enumerate(volume.shape):
        if length > 1:
            yield volume.take(0, axis)
            yield volume.take(length - 1, axis)


def _coherence(masks: list[np.ndarray]) -> float:
    """Return the share of mask voxels whose next voxel along an axis is in the mask too, over all axes and masks."""
    pair_count, first_count = 0, 0
    for mask in masks:
        for axis, length in enumerate(mask.shape):
            if length > 1:
                voxels, next_voxels = mask.take(range(length - 1), axis), mask.take(range(1, length), axis)
                first_count += int(np.count_nonzero(voxels))
                pair_count += int(np.count_nonzero(voxels & next_voxels))
    return pair_count / first_count if first_count else 0.0


def _air_intensity(volume: np.ndarray, background: np.ndarray) -> float | None:
    """Return the intensity of the air between a background and the head; None where the head touches the background.

    Air is recognised by many specks, or by a rim of values with a small spread.
    """
    measured_mask = ~background
    rim = volume[measured_mask & binary_dilation(background, iterations=RIM_VOXELS)]
    values = volume[measured_mask]
    bright = values[values > values.mean(dtype=np.float64)]
    if rim.size == 0 or bright.size == 0:
        return None
    low, air, median = np.percentile(rim, [10, 25, 50]).tolist()
    unspecked_count = np.count_nonzero(without_specks(with_margin(measured_mask)))
    is_noise = unspecked_count < (1 - NOISE_SHARE) * values.size
    return air if is_noise or 0 < median - low < MAX_AIR_SPREAD * (np.percentile(bright, 50) - median) else None


def _brighter_than_air(volume: np.ndarray, blank: np.ndarray | None, air: float | None) -> np.ndarray:
    """Return a mask of what is brighter than air by `HEAD_THRESHOLD` of the way to typical tissue."""
    steps = tuple(slice(None, None, max(1, length // THINNED_LENGTH)) for length in volume.shape)
    thinned_volume, measured_mask = contiguous(volume[steps]), None if blank is None else ~blank[steps]
    if thinned_volume.min() == thinned_volume.max() or (measured_mask is not None and not measured_mask.any()):
        thinned_volume, measured_mask = volume, None if blank is None else ~blank
    bright = volume > _head_threshold(thinned_volume, measured_mask, air)
    if blank is not None:
        bright &= ~blank
    return bright if bright.any() else np.ones(volume.shape, dtype=bool)


def _head_threshold(volume: np.ndarray, measured_mask: np.ndarray | None, known_air: float | None = None) -> float:
    """Return the intensity that separates head from air.

    Air and tissue are first estimated from two classes of intensities (`_otsu_threshold`). These depend on the amount
    of air, so both are estimated again within the head's box, air outside its mask, until the box no longer changes.
    """
    # Estimate air and tissue from the whole volume.
    values = volume.ravel() if measured_mask is None else volume[measured_mask]
    is_dark = values <= _otsu_threshold(values)
    # The darkest quarter is air for certain: brighter values may be dark tissue.
    air = float(np.percentile(values[is_dark], 25, overwrite_input=True)) if known_air is None else known_air
    tissue = float(np.median(values[~is_dark], overwrite_input=True)) if not is_dark.all() else air

    # Estimate them again within the head's box, until it no longer changes.
    boxes: list[Box] = []
    for _ in range(MAX_ROUNDS):
        threshold = air + HEAD_THRESHOLD * (tissue - air)
        bright = volume > threshold
        mask = filled_mask(bright if measured_mask is None else bright & measured_mask)
        if not mask.any():
            break
        box = bounding_box(mask)
        if box in boxes:
            break
        boxes.append(box)
        inside = volume[box] if measured_mask is None else volume[box][measured_mask[box]]
        outside = volume[box][~mask[box] if measured_mask is None else measured_mask[box] & ~mask[box]]
        if outside.size < 0.01 * mask[box].size:
            break
        inside = inside[inside > inside.mean(dtype=np.float64)]
        air = float(np.median(outside, overwrite_input=True)) if known_air is None else known_air
        tissue = float(np.median(inside, overwrite_input=True))
    return air + HEAD_THRESHOLD * (tissue - air)


def _otsu_threshold(values: np.ndarray) -> float:
    """Return the intensity that separates values into two classes of the least variance within them (Otsu 1979)."""
    lowest, highest = float(values.min()), float(np.percentile(values, LAST_PERCENTILE))
    if not highest > lowest:
        return lowest
    counts, edges = np.histogram(np.minimum(values, highest), BINS, (lowest, highest))
    centres = (edges[1:] + edges[:-1]) / 2
    counts_below, sums = np.cumsum(counts), np.cumsum(counts * centres)
    counts_above = np.maximum(1, values.size - counts_below)
    mean_difference = sums / np.maximum(1, counts_below) - (sums[-1] - sums) / counts_above
    return float(edges[1 + int(np.argmax((counts_below * (values.size - counts_below) * mean_difference**2)[:-1]))])


def filled_mask(body: np.ndarray) -> np.ndarray:
    """Return a mask (X, Y, Z) without specks, gaps of a few voxels closed and cavities filled, slice by slice."""
    axes = [axis for axis, length in enumerate(body.shape) if length > 2]
    body = without_specks(with_margin(body))
    box = bounding_box(body, MARGIN)  # skips the air around the head, which would cost as much
    body[box] = fill_cavities(close_gaps(contiguous(body[box]), GAP_RADIUS, axes))
    return without_margin(body)


def _outer_box(body: np.ndarray) -> Box:
    return bounding_box(without_margin(without_specks(with_margin(body), MIN_REGION_SHARE)))
