"""Where the head is in a volume, whatever surrounds it: noisy air, empty planes, or a background of one value.

What is found must depend on the head alone. Planes of one value at the volume's border are left out first; then
values that fill whole areas of the border (a mask's 0, a scanner's -1024 outside its circle) are told from air. Air is
a small spread of intensities all around, below the head; where there is none, what is not background is the head.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from transforms.mask_regions import box_of, close_gaps, fill_cavities, with_margin, without_margin, without_specks
from transforms.ranks import percentile
from transforms.slices import contiguous

GAP = 2  # voxels: gaps up to twice as wide are closed
ABOVE_AIR = 0.15  # of the way from air to typical tissue: what is brighter is head
BORDER_SHARE = 0.05  # of the border's voxels, the least that a background's value holds
VOLUME_SHARE = 0.001  # of all voxels, the least that padding inside a volume holds, by its lowest value
COHERENT = 0.8  # of a background's voxels have their neighbour in it; of whole-numbered noise fewer
SPECKS = 0.02  # of the voxels that are no background: so many lone ones are noise
RIM = 2  # voxels: around what is no background, where air is looked for
PART = 0.001  # of the head: the least that counts as a part of it
QUIET = 0.15  # of the way from air to tissue: the spread of the darker half of what may be air
COARSE = 64  # voxels along an axis of the thinned volume from which air and tissue are estimated
BINS, BRIGHTEST = 256, 99.9  # of the histogram that parts air and tissue at first, and the percentile it ends at
MOST_ROUNDS = 8  # of that estimate
HEMMED = 0.75  # of the border's voxels: with so many in the head there is no air to tell it from

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Head:
    """Where a head is.

    Attributes:
        field: The box of the volume without empty planes at its border; the masks are of its voxels alone.
        mask: (X, Y, Z) bool, the head, filled.
        parts: The box of the head and of smaller parts that the mask leaves out, such as the tip of a nose.
        blank: (X, Y, Z) bool, voxels that nobody measured, for they hold a background's or a padding's value; None
            where there are none.
        masked: Whether all that is not blank is head, as after skull stripping, and no air is left.
        doubts: What cannot be told, in some words each.
    """

    field: Box
    mask: np.ndarray
    parts: Box
    blank: np.ndarray | None = None
    masked: bool = False
    doubts: tuple[str, ...] = ()


def find_head(volume: np.ndarray) -> Head:
    """Return where the head (or whatever was scanned) is, filled, without what surrounds it.

    Args:
        volume: (X, Y, Z) finite intensities in any unit, measured from any zero.

    Raises:
        ValueError: the volume is constant.
    """
    if volume.min() == volume.max():
        raise ValueError(f"every voxel has the same value, {volume.flat[0]:g}: there is nothing to translate in it")
    field = without_empty_planes(volume)
    inner = contiguous(volume[field])
    if inner.min() == inner.max():
        whole = np.ones(inner.shape, dtype=bool)
        return Head(field, whole, tight_box(whole), masked=True)
    background, blank = blank_voxels(inner)
    air = None if background is None else _air_beside(inner, background)
    if background is not None and air is None:
        return Head(field, filled(~background), _box_of_parts(~background), blank, masked=True)
    if blank is not None:  # single voxels of noise may have a background's value
        blank = without_margin(without_specks(with_margin(blank)))
    bright = _brighter_than_air(inner, blank, air)
    mask = filled(bright)
    hemmed = np.mean([face.mean() for face in _faces(mask)] or [0.0]) > HEMMED
    doubts = ["no air, darker than the head, is around it, so where the head ends cannot be told"] if hemmed else []
    return Head(field, mask, _box_of_parts(bright), blank, doubts=tuple(doubts))


def without_empty_planes(volume: np.ndarray) -> Box:
    """Return the box of a volume that is left when planes of a single value are taken off its border, one by one.

    The value is that of the first such plane: of a uniform object in an empty volume, the object is left.
    """
    bounds = [[0, length] for length in volume.shape]
    value, shrunk = None, True
    while shrunk:
        shrunk = False
        for axis, bound in enumerate(bounds):
            for end, step in ((0, 1), (1, -1)):
                while bound[1] - bound[0] > 1:
                    plane = _border_plane(volume, bounds, axis, bound[0] if end == 0 else bound[1] - 1)
                    if plane.size == 1 or not (plane == (plane.flat[0] if value is None else value)).all():
                        break
                    value, shrunk = plane.flat[0], True
                    bound[end] += step
    return tuple(slice(*bound) for bound in bounds)


def _border_plane(volume: np.ndarray, bounds: list[list[int]], axis: int, index: int) -> np.ndarray:
    within: list[slice | int] = [slice(*bound) for bound in bounds]
    within[axis] = index
    return volume[tuple(within)]


def blank_voxels(volume: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return where a volume (X, Y, Z) holds values of a background, and of a background or padding; None for nowhere.

    A background's values fill areas of the border (`BORDER_SHARE`). Padding is the volume's lowest value, where it
    fills regions anywhere (`VOLUME_SHARE`). Whole-numbered noise, too, holds each value often, but fills no areas.
    """
    background = None
    for value in _border_values(volume):
        same = volume == value
        background = same if background is None else background | same
    lowest = volume == volume.min()
    padded = np.count_nonzero(lowest) >= VOLUME_SHARE * volume.size and _coherence([lowest]) >= COHERENT
    blank = lowest if background is None else background | lowest
    if not padded:
        blank = background
    return (None, None) if blank is None or blank.all() else (background, blank)


def _border_values(volume: np.ndarray) -> Iterator[np.generic]:
    """Yield the values that fill areas of the border."""
    faces = list(_faces(volume))
    if not faces:
        return
    values, counts = np.unique(np.concatenate([face.ravel() for face in faces]), return_counts=True)
    for value in values[counts >= BORDER_SHARE * counts.sum()]:
        if _coherence([face == value for face in faces]) >= COHERENT:
            yield value


def _faces(volume: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the two outermost planes along each axis; of an axis of one voxel, none."""
    for axis, length in enumerate(volume.shape):
        if length > 1:
            yield volume.take(0, axis)
            yield volume.take(length - 1, axis)


def _coherence(masks: list[np.ndarray]) -> float:
    """Return of what share of a mask's voxels the next voxel along an axis is in it too, over all axes and masks."""
    both = first = 0
    for mask in masks:
        for axis, length in enumerate(mask.shape):
            if length > 1:
                before, after = mask.take(range(length - 1), axis), mask.take(range(1, length), axis)
                first += np.count_nonzero(before)
                both += np.count_nonzero(before & after)
    return both / first if first else 0.0


def _air_beside(volume: np.ndarray, background: np.ndarray) -> float | None:
    """Return the intensity of the air between a background and the head; None where the head itself lies beside it.

    Air shows as many specks, or as a rim of quiet values.
    """
    measured = ~background
    rim = volume[measured & _within(background, RIM)]
    values = volume[measured]
    bright = values[values > values.mean(dtype=np.float64)]
    if rim.size == 0 or bright.size == 0:
        return None
    low, level, usual = (percentile(rim, percent) for percent in (10, 25, 50))
    kept = np.count_nonzero(without_specks(with_margin(measured)))
    in_specks = kept < (1 - SPECKS) * values.size
    return level if in_specks or 0 < usual - low < QUIET * (percentile(bright, 50) - usual) else None


def _within(mask: np.ndarray, voxels: int) -> np.ndarray:
    """Return which voxels are at most so many steps away from a mask."""
    thick = [axis for axis, length in enumerate(mask.shape) if length > 1]
    for _ in range(voxels):
        grown = mask.copy()
        for axis in thick:
            ahead, behind = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
            ahead[axis], behind[axis] = slice(1, None), slice(0, -1)
            grown[tuple(ahead)] |= mask[tuple(behind)]
            grown[tuple(behind)] |= mask[tuple(ahead)]
        mask = grown
    return mask


def _brighter_than_air(volume: np.ndarray, blank: np.ndarray | None, air: float | None) -> np.ndarray:
    """Return what in a volume (X, Y, Z) is brighter than air by `ABOVE_AIR` of the way to typical tissue."""
    steps = tuple(slice(None, None, max(1, length // COARSE)) for length in volume.shape)
    thin, thin_measured = contiguous(volume[steps]), None if blank is None else ~blank[steps]
    if thin.min() == thin.max() or (thin_measured is not None and not thin_measured.any()):
        thin, thin_measured = volume, None if blank is None else ~blank
    bright = volume > _threshold(thin, thin_measured, air)
    if blank is not None:
        bright &= ~blank
    return bright if bright.any() else np.ones(volume.shape, dtype=bool)


def _threshold(volume: np.ndarray, measured: np.ndarray | None, known_air: float | None = None) -> float:
    """Return the intensity that separates head from air.

    First air and tissue are taken of two classes of intensities (`_two_classes`). How much air there is moves these; so
    both are taken again within the head's box, the air outside its mask, until the box stays as it is.
    """
    values = volume.ravel() if measured is None else volume[measured]
    dark = values <= _two_classes(values)
    air = float(np.percentile(values[dark], 25)) if known_air is None else known_air  # the rest may be dark tissue
    tissue = float(np.median(values[~dark])) if not dark.all() else air
    boxes: list[Box] = []
    for _ in range(MOST_ROUNDS):
        threshold = air + ABOVE_AIR * (tissue - air)
        bright = volume > threshold
        mask = filled(bright if measured is None else bright & measured)
        if not mask.any():
            break
        box = tight_box(mask)
        if box in boxes:
            break
        boxes.append(box)
        inside = volume[box] if measured is None else volume[box][measured[box]]
        outside = volume[box][~mask[box] if measured is None else measured[box] & ~mask[box]]
        if outside.size < 0.01 * mask[box].size:
            break
        inside = inside[inside > inside.mean(dtype=np.float64)]
        air = float(np.median(outside)) if known_air is None else known_air
        tissue = float(np.median(inside))
    return air + ABOVE_AIR * (tissue - air)


def _two_classes(values: np.ndarray) -> float:
    """Return the intensity that parts values into two classes of the least variance within them (Otsu 1979)."""
    lowest, highest = float(values.min()), float(np.percentile(values, BRIGHTEST))
    if not highest > lowest:
        return lowest
    counts, edges = np.histogram(np.minimum(values, highest), BINS, (lowest, highest))
    centres = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * centres)
    above = np.maximum(1, values.size - below)
    apart = sums / np.maximum(1, below) - (sums[-1] - sums) / above
    return float(edges[1 + int(np.argmax((below * (values.size - below) * apart**2)[:-1]))])


def filled(body: np.ndarray) -> np.ndarray:
    """Return a mask (X, Y, Z) without specks, gaps of a few voxels closed and cavities filled, slice by slice."""
    thick = [axis for axis, length in enumerate(body.shape) if length > 2]
    body = without_specks(with_margin(body))
    box = box_of(body)  # the air around would cost as much as the head
    body[box] = fill_cavities(close_gaps(contiguous(body[box]), GAP, thick))
    return without_margin(body)


def _box_of_parts(body: np.ndarray) -> Box:
    return tight_box(without_margin(without_specks(with_margin(body), PART)))


def tight_box(mask: np.ndarray) -> Box:
    """Return the smallest box that holds what is True in a mask, where anything is."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)
