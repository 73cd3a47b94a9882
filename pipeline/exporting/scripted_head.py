"""`transforms.head_mask` in TorchScript: where the head is, for models that run without this package.

Boxes are lists of six integers: for each axis the first voxel and the one after the last.
"""

import torch
from torch import Tensor

from pipeline.exporting import scripted_regions as regions


def find_head(volume: Tensor) -> tuple[list[int], Tensor, list[int], Tensor | None, bool]:
    """Return field, mask, outer box, blank and masked of `transforms.head_mask.Head`, for a volume (X, Y, Z)."""
    if bool(volume.min() == volume.max()):
        raise ValueError("every voxel has the same value: there is nothing to translate in the volume")
    field = without_empty_planes(volume)
    inner = cropped(volume, field)
    if bool(inner.min() == inner.max()):
        full_mask = torch.ones_like(inner, dtype=torch.bool)
        return field, full_mask, bounding_box(full_mask), None, True

    # A background without air next to the head was masked: the rest is the head.
    background, blank = blank_voxels(inner)
    air: float | None = None
    if background is not None:
        air = _air_intensity(inner, background)
        if air is None:
            return field, filled_mask(~background), _outer_box(~background), blank, True

    # Otherwise the head is what is brighter than air.
    if blank is not None:
        blank = regions.without_margin(regions.without_specks(regions.with_margin(blank), 0.01))
    bright = _brighter_than_air(inner, blank, air)
    return field, filled_mask(bright), _outer_box(bright), blank, False


def without_empty_planes(volume: Tensor) -> list[int]:
    """Return the box of a volume without planes of a single value at its border, which are removed one by one."""
    box = [0, volume.size(0), 0, volume.size(1), 0, volume.size(2)]
    value: float | None = None
    has_shrunk = True
    while has_shrunk:
        has_shrunk = False
        for axis in range(3):
            for end in range(2):
                while box[2 * axis + 1] - box[2 * axis] > 1:
                    plane_box = box[:]
                    plane_box[2 * axis + 1 - end] = box[2 * axis] + 1 if end == 0 else box[2 * axis + 1] - 1
                    plane = cropped(volume, plane_box)
                    expected = float(plane[0, 0, 0]) if value is None else value
                    if plane.numel() == 1 or not bool((plane == expected).all()):
                        break
                    value, has_shrunk = expected, True
                    box[2 * axis + end] += 1 if end == 0 else -1
    return box


def cropped(volume: Tensor, box: list[int]) -> Tensor:
    """Return the part of a volume within a box."""
    return volume[box[0] : box[1], box[2] : box[3], box[4] : box[5]].contiguous()


def bounding_box(mask: Tensor) -> list[int]:
    """Return the smallest box around the True voxels of a mask that is not empty."""
    box: list[int] = []
    for axis in range(3):
        occupied = torch.nonzero(mask.movedim(axis, 0).flatten(1).any(1))[:, 0]
        box += [int(occupied[0]), int(occupied[-1]) + 1]
    return box


def percentile(values: Tensor, percent: float) -> float:
    """Return a percentile (0-100) of values, linear between the two that are nearest, as numpy's."""
    ordered = values.flatten().sort()[0]
    position = (ordered.numel() - 1) * percent / 100
    below = int(position)
    low, high = float(ordered[below]), float(ordered[min(below + 1, ordered.numel() - 1)])
    return low + (high - low) * (position - below)


def blank_voxels(volume: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return masks of a volume's background, and of its background or padding; None where there are none."""
    background: Tensor | None = None
    for value in _border_values(volume):
        is_value = volume == value
        background = is_value if background is None else background | is_value
    is_lowest = volume == volume.min()
    blank = background
    if int(is_lowest.sum()) >= 0.001 * volume.numel() and _coherence([is_lowest]) >= 0.8:
        blank = is_lowest if background is None else background | is_lowest
    if blank is None or bool(blank.all()):
        return None, None
    return background, blank


def _border_values(volume: Tensor) -> list[float]:
    """Return the values that fill areas of the border."""
    faces: list[Tensor] = []
    for axis in range(3):
        if volume.size(axis) > 1:
            faces.append(volume.select(axis, 0))
            faces.append(volume.select(axis, -1))
    if len(faces) == 0:
        return []
    border = torch.cat([face.flatten() for face in faces])
    values, _, counts = torch._unique2(border, sorted=True, return_inverse=False, return_counts=True)
    background_values: list[float] = []
    for value in values[counts >= 0.05 * border.numel()]:
        if _coherence([face == value for face in faces]) >= 0.8:
            background_values.append(float(value))
    return background_values


def _coherence(masks: list[Tensor]) -> float:
    """Return the share of mask voxels whose next voxel along an axis is in the mask too, over all axes and masks."""
    pair_count, first_count = 0, 0
    for mask in masks:
        for axis in range(mask.dim()):
            length = mask.size(axis) - 1
            if length > 0:
                voxels, next_voxels = mask.narrow(axis, 0, length), mask.narrow(axis, 1, length)
                first_count += int(voxels.sum())
                pair_count += int((voxels & next_voxels).sum())
    return pair_count / first_count if first_count > 0 else 0.0


def _air_intensity(volume: Tensor, background: Tensor) -> float | None:
    """Return the intensity of the air between a background and the head; None where the head touches the background."""
    measured_mask = ~background
    surroundings = background
    for _ in range(2):
        surroundings = regions.dilated(surroundings, _thick_axes(surroundings, 1))
    rim, values = volume[measured_mask & surroundings], volume[measured_mask]
    bright = values[values > values.mean(dtype=torch.float64)]
    if rim.numel() == 0 or bright.numel() == 0:
        return None
    low, air, median = percentile(rim, 10.0), percentile(rim, 25.0), percentile(rim, 50.0)
    unspecked_count = int(regions.without_specks(regions.with_margin(measured_mask), 0.01).sum())
    is_noise = unspecked_count < (1 - 0.02) * values.numel()
    if is_noise or (median - low > 0 and median - low < 0.15 * (percentile(bright, 50.0) - median)):
        return air
    return None


def _thick_axes(volume: Tensor, length: int) -> list[int]:
    axes: list[int] = []
    for axis in range(3):
        if volume.size(axis) > length:
            axes.append(axis)
    return axes


def _brighter_than_air(volume: Tensor, blank: Tensor | None, air: float | None) -> Tensor:
    """Return a mask of what is brighter than air by 15 % of the way to typical tissue."""
    measured_mask = torch.ones_like(volume, dtype=torch.bool) if blank is None else ~blank
    steps = [max(1, length // 64) for length in volume.shape]
    thinned = volume[:: steps[0], :: steps[1], :: steps[2]].contiguous()
    thinned_mask = measured_mask[:: steps[0], :: steps[1], :: steps[2]].contiguous()
    if bool(thinned.min() == thinned.max()) or not bool(thinned_mask.any()):
        thinned, thinned_mask = volume, measured_mask
    bright = (volume > _head_threshold(thinned, thinned_mask, air)) & measured_mask
    return bright if bool(bright.any()) else torch.ones_like(bright)


def _head_threshold(volume: Tensor, measured_mask: Tensor, known_air: float | None) -> float:
    """Return the intensity that separates head from air."""
    # Estimate air and tissue from the whole volume.
    values = volume[measured_mask]
    is_dark = values <= _otsu_threshold(values)
    air = percentile(values[is_dark], 25.0) if known_air is None else known_air
    tissue = air if bool(is_dark.all()) else percentile(values[~is_dark], 50.0)

    # Estimate them again within the head's box, until it no longer changes.
    boxes: list[list[int]] = []
    for _ in range(8):
        mask = filled_mask((volume > air + 0.15 * (tissue - air)) & measured_mask)
        if not bool(mask.any()):
            break
        box = bounding_box(mask)
        if any([earlier == box for earlier in boxes]):  # noqa: C419  (TorchScript has no generators)
            break
        boxes.append(box)
        values_in_box, mask_in_box, head = cropped(volume, box), cropped(measured_mask, box), cropped(mask, box)
        inside, outside = values_in_box[mask_in_box], values_in_box[mask_in_box & ~head]
        if outside.numel() < 0.01 * head.numel():
            break
        air = percentile(outside, 50.0) if known_air is None else known_air
        tissue = percentile(inside[inside > inside.mean(dtype=torch.float64)], 50.0)
    return air + 0.15 * (tissue - air)


def _otsu_threshold(values: Tensor) -> float:
    """Return the intensity that separates values into two classes of the least variance within them (Otsu 1979)."""
    lowest, highest = float(values.min()), percentile(values, 99.9)
    if not highest > lowest:
        return lowest
    bins = (torch.clamp(values.double(), max=highest) - lowest) * (256 / (highest - lowest))
    counts = torch.bincount(bins.long().clamp(0, 255), minlength=256).double()
    edges = torch.linspace(lowest, highest, 257, dtype=torch.float64, device=values.device)
    centres = (edges[1:] + edges[:-1]) / 2
    counts_below, sums = counts.cumsum(0), (counts * centres).cumsum(0)
    counts_above = (values.numel() - counts_below).clamp(min=1)
    mean_difference = sums / counts_below.clamp(min=1) - (sums[-1] - sums) / counts_above
    variance = counts_below * (values.numel() - counts_below) * mean_difference**2
    return float(edges[1 + int(variance[:-1].argmax())])


def filled_mask(body: Tensor) -> Tensor:
    """Return a mask (X, Y, Z) without specks, gaps of a few voxels closed and cavities filled, slice by slice."""
    axes = _thick_axes(body, 2)
    body = regions.without_specks(regions.with_margin(body), 0.01)
    if bool(body.any()):
        box = bounding_box(body)
        for axis in range(3):
            box[2 * axis], box[2 * axis + 1] = box[2 * axis] - 3, box[2 * axis + 1] + 3
        values_in_box = body[box[0] : box[1], box[2] : box[3], box[4] : box[5]]
        values_in_box.copy_(regions.fill_cavities(regions.close_gaps(values_in_box.contiguous(), 2, axes)))
    return regions.without_margin(body)


def _outer_box(body: Tensor) -> list[int]:
    return bounding_box(regions.without_margin(regions.without_specks(regions.with_margin(body), 0.001)))
