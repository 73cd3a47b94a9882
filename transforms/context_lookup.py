"""Tables from an intensity and its surroundings to an intensity: where a voxel lies in them, and what they hold there.

An intensity alone does not tell fluid, bone and air, which are all dark in T1. The blurred intensity does: bright
tissue lies around fluid, on one side of bone, and not around air. A table holds values at the corners of a grid
over (intensity, narrow blur, wide blur), linear between them; `networks.context_lookup` computes the same in torch.

Gaussians blur within the slice; across slices, where they need less detail, three points stand for each (Gauss-Hermite
quadrature): the slice, at 2/3, and those √3 standard deviations away, at 1/6. So five slices do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from transforms.neighbours import Neighbours, neighbour_ends

BLUR_MM = (6.0, 16.0)  # standard deviations of the Gaussians
ACROSS_MM = tuple(math.sqrt(3) * sd for sd in BLUR_MM)  # how far the slices lie that stand for those on either side
ACROSS_WEIGHT = 1 / 6  # of each of the two
LEVELS = (13, 6, 6)  # entries of a table along the intensity and each blurred intensity
AIR_WIDTH = 0.02  # of the first interval of the intensity, which keeps air apart from dark tissue; others are even


@dataclass(frozen=True)
class ContextTable:
    """A table from intensity and blurred intensities to intensity."""

    values: np.ndarray  # `LEVELS`, float32; results are clipped to [-1, 1]
    blur_pixels: tuple[float, ...]  # standard deviations of the Gaussians in pixels

    def look_up(self, slices: np.ndarray, slice_mm: float) -> np.ndarray:
        """Map a volume's slices (N, H, W) in [-1, 1], `slice_mm` apart, to the same shape and range, float32."""
        translated, across = np.empty(slices.shape, np.float32), blurred_across(slices, slice_mm)
        for index in range(len(slices)):  # slice by slice, to stay in a core's cache
            part = slice(index, index + 1)
            coordinates = table_coordinates(slices[part], [image[part] for image in across], self.blur_pixels)
            translated[index] = map_coordinates(self.values, np.stack(coordinates), order=1, mode="nearest")[0]
        return np.clip(translated, -1, 1, out=translated)


def table_coordinates(
    slices: np.ndarray, across: Sequence[np.ndarray], blur_pixels: Sequence[float], step: int = 1
) -> list[np.ndarray]:
    """Return where voxels of slices (N, H, W) in [-1, 1] lie in a table, in units of its corners, axis by axis.

    `across` are the slices `blurred_across`, and `blur_pixels` the standard deviation in pixels, for each Gaussian.
    Every `step`-th row and column is returned, while all are blurred: an array (N, ⌈H / step⌉, ⌈W / step⌉) in
    [0, number of levels - 1] for each axis of the table.
    """
    knots = intensity_knots()
    intensity = np.interp(slices[:, ::step, ::step], knots, np.arange(LEVELS[0])).astype(np.float32)
    surroundings = [
        (np.clip(blurred(blurred_slices, sd, step), -1, 1) + np.float32(1)) * np.float32((levels - 1) / 2)
        for blurred_slices, sd, levels in zip(across, blur_pixels, LEVELS[1:], strict=True)
    ]
    return [intensity, *surroundings]


def intensity_knots() -> np.ndarray:
    """Return the intensities of a table's entries along its first axis, rising from -1 to 1."""
    return np.concatenate([[-1.0], np.linspace(-1 + AIR_WIDTH, 1, LEVELS[0] - 1)])


def blurred_across(
    slices: np.ndarray, slice_mm: float, air_beyond: tuple[bool, bool] = (False, False)
) -> list[np.ndarray]:
    """Return slices (N, H, W) in [-1, 1], `slice_mm` apart, blurred by each Gaussian across them, by three points.

    `air_beyond` is whether air (-1) lies before the first slice and after the last; else `neighbour_ends` repeat.
    """
    ends = [
        np.full_like(end, -1) if air else end for end, air in zip((slices[:1], slices[-1:]), air_beyond, strict=True)
    ]
    with_ends, index = np.concatenate([ends[0], slices, ends[1]]), np.arange(len(slices))
    first, last = neighbour_ends(slices, slice_mm)
    lowest = -1 if air_beyond[0] else np.minimum(first, index)
    highest = len(slices) if air_beyond[1] else np.maximum(last, index)
    blurred_slices = []
    for step in Neighbours(distances_mm=ACROSS_MM).steps(slice_mm)[len(ACROSS_MM) + 1 :]:
        before, after = ((index + move).clip(lowest, highest) + 1 for move in (-step, step))
        sides = with_ends[before] + with_ends[after]
        blurred_slices.append(slices + np.float32(ACROSS_WEIGHT) * (sides - 2 * slices))
    return blurred_slices


def blurred(slices: np.ndarray, sd_pixels: float, step: int = 1) -> np.ndarray:
    """Return slices (N, H, W) blurred by a Gaussian within the slice, with -1 beyond the border; `step` as above."""
    rows, columns = (gaussian_matrix(length, sd_pixels)[::step] for length in slices.shape[1:])
    return rows @ (slices + np.float32(1)) @ columns.T - np.float32(1)


def gaussian_matrix(length: int, sd: float) -> np.ndarray:
    """Return (length, length) float32 whose product with a line of values that is 0 beyond its ends blurs it.

    The Gaussian's sum over all whole numbers is sd · √(2π) · (1 + 2 exp(-2 π² sd²) + …), by Poisson's summation: so the
    weights do not depend on the line's length.
    """
    distance = np.subtract.outer(np.arange(length), np.arange(length)) / sd
    total = sd * np.sqrt(2 * np.pi) * (1 + 2 * np.exp(-2 * (np.pi * sd) ** 2))
    return (np.exp(-(distance**2) / 2) / total).astype(np.float32)
