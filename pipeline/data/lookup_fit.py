"""Context lookups (`transforms.context_lookup`) from one contrast to another, fitted without a pair.

Heads are centred, and space is cut into cells. Whoever the subjects are, in a cell the same tissues are seen, so that
for a table f from contrast x to contrast y

    E[f(x) | place] = E[y | place],

with means over the training subjects of either contrast. f is linear in its table's values: this is least squares, with
a penalty on second differences that fills what no voxel determines. Air, which both contrasts show as -1, is known
without a mean. Heads are scaled to one size along each axis, for a child's brain is not an adult's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.sparse import csr_array

from pipeline.data.slice_stacks import SliceStack
from transforms.context_lookup import BLUR_MM, LEVELS, ContextTable, intensity_knots, table_coordinates
from transforms.intensity import foreground_mask

CELL_MM = 6.0
CELL_BLUR, CELL_MARGIN = 0.7, 3  # cells: means are blurred by so much, for heads differ, and reach so far
MIN_HEAD_SHARE = 0.05  # of the heads, in a cell that counts
MAX_SCALE = 2.0  # of a head, along an axis; a mask that is a speck would spread its slices over millions of cells
ROUGHNESS_WEIGHT = 0.3  # of the squared second differences; the error on held-out subjects chose no better ones
AIR_WEIGHT = 1.0  # of the mean square over air voxels, against that over cells
AIR_STRIDE = 3  # every how many of them count
RIDGE = 1e-3  # weight of the squared values, for where second differences leave a table undetermined


@dataclass(frozen=True)
class _PlacedStack:
    """A stack's thinned voxels in the common frame."""

    stack: SliceStack
    head: np.ndarray  # (n, h, w) bool
    cells: tuple[np.ndarray, ...]  # for each axis, the index (n,), (h,), (w,) of each voxel's cell; 0 is the middle

    def coordinates(self, blur_pixels: Sequence[float]) -> list[np.ndarray]:
        """Return the voxels' coordinates in a table, see `table_coordinates`."""
        slice_step, pixel_step = self.stack.steps
        return table_coordinates(self.stack.read()[::slice_step], blur_pixels, pixel_step)


@dataclass(frozen=True)
class _Grid:
    """The cells, a box of them, that are looked at."""

    first: tuple[int, ...]
    shape: tuple[int, ...]

    def cell_of_voxels(self, placed: _PlacedStack) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, h, w) the number of each voxel's cell, and whether it lies in the box."""
        axes = [cells - first for cells, first in zip(placed.cells, self.first, strict=True)]
        inside = [(axis >= 0) & (axis < length) for axis, length in zip(axes, self.shape, strict=True)]
        clipped = np.ix_(*(np.clip(axis, 0, length - 1) for axis, length in zip(axes, self.shape, strict=True)))
        number = np.ravel_multi_index(np.broadcast_arrays(*clipped), self.shape)
        slices, rows, columns = inside
        return number, slices[:, None, None] & rows[:, None] & columns


def fit_context_tables(stacks: Mapping[str, Sequence[SliceStack]]) -> dict[str, ContextTable]:
    """Fit a table from each of two contrasts to the other; return them by target contrast.

    Args:
        stacks: Contrast -> its training heads.

    Raises:
        ValueError: the heads of the two contrasts are nowhere seen in the same place.
    """
    everything = [stack for side in stacks.values() for stack in side]
    blur_pixels = {contrast: _blur_pixels(side) for contrast, side in stacks.items()}
    cell_mm = np.array([max(CELL_MM, *(stack.sample_mm[axis] for stack in everything)) for axis in range(3)])
    heads = {contrast: [_find_head(stack) for stack in side] for contrast, side in stacks.items()}
    size_mm = np.mean([head.size_mm for side in heads.values() for head in side], axis=0)
    placed = {contrast: [_place(head, size_mm, cell_mm) for head in side] for contrast, side in heads.items()}
    grid, counted = _head_cells(placed)
    means = {contrast: _cell_means(side, grid, counted, blur_pixels[contrast]) for contrast, side in placed.items()}
    first, second = stacks
    air = {contrast: _air_squares(side, blur_pixels[contrast]) for contrast, side in placed.items()}
    return {
        target: ContextTable(_fit(means[source], means[target], air[source]), blur_pixels[source])
        for source, target in ((first, second), (second, first))
    }


def _blur_pixels(stacks: Sequence[SliceStack]) -> tuple[float, ...]:
    """Return the Gaussians' standard deviations in pixels of a contrast's median size."""
    pixel_mm = float(np.median([np.mean(stack.pixel_mm) for stack in stacks]))
    return tuple(sd / pixel_mm for sd in BLUR_MM)


@dataclass(frozen=True)
class _Head:
    """The head in a stack's thinned voxels: its mask (n, h, w), and voxel positions, middle and size by axis in mm."""

    stack: SliceStack
    mask: np.ndarray
    axes_mm: tuple[np.ndarray, ...]
    middle_mm: np.ndarray
    size_mm: np.ndarray  # standard deviation of its voxels' positions; at least a voxel


def _find_head(stack: SliceStack) -> _Head:
    slice_step, pixel_step = stack.steps
    voxels = stack.read()[::slice_step, ::pixel_step, ::pixel_step]
    mask = foreground_mask(voxels) if voxels.min() < voxels.max() else np.zeros(voxels.shape, dtype=bool)
    rows, columns = (np.arange(n) * pixel_step * mm for n, mm in zip(mask.shape[1:], stack.pixel_mm, strict=True))
    axes_mm = (stack.positions_mm[::slice_step], rows, columns)
    indices = np.nonzero(mask if mask.any() else np.ones_like(mask))
    positions = [axis[index] for axis, index in zip(axes_mm, indices, strict=True)]
    middle_mm = np.array([position.mean() for position in positions])
    size_mm = np.array([position.std() for position in positions])
    return _Head(stack, mask, axes_mm, middle_mm, np.maximum(size_mm, stack.sample_mm))


def _place(head: _Head, size_mm: np.ndarray, cell_mm: np.ndarray) -> _PlacedStack:
    """Return a stack with the cells of its voxels, its head moved to the middle and scaled by axis to a size in mm."""
    scales = np.clip(size_mm / head.size_mm, 1 / MAX_SCALE, MAX_SCALE)
    cells = tuple(
        np.floor((axis - middle) * scale / cell + 0.5).astype(int)
        for axis, middle, scale, cell in zip(head.axes_mm, head.middle_mm, scales, cell_mm, strict=True)
    )
    return _PlacedStack(head.stack, head.mask, cells)


def _head_cells(placed: Mapping[str, Sequence[_PlacedStack]]) -> tuple[_Grid, np.ndarray]:
    """Return a box of cells, and which of them count: those in the head of `MIN_HEAD_SHARE` of the subjects.

    Raises:
        ValueError: there is no such cell.
    """
    extents = [[(axis.min(), axis.max()) for axis in stack.cells] for side in placed.values() for stack in side]
    lowest, highest = np.min(extents, axis=(0, 2)), np.max(extents, axis=(0, 2))
    grid = _Grid(tuple(lowest.tolist()), tuple((highest - lowest + 1).tolist()))
    shares, usual = [], np.ones(grid.shape, dtype=bool)
    for side in placed.values():
        share, seen = np.zeros(grid.shape), np.zeros(grid.shape)
        for stack in side:
            number = grid.cell_of_voxels(stack)[0].ravel()
            voxels = np.bincount(number, minlength=share.size).reshape(grid.shape)
            share += np.bincount(number, stack.head.ravel(), share.size).reshape(grid.shape) / np.maximum(1, voxels)
            seen += voxels > 0
        shares.append(share / np.maximum(1, seen))
        usual &= 2 * seen >= len(side)
    counted = usual & (np.mean(shares, axis=0) >= MIN_HEAD_SHARE)
    if not counted.any():
        raise ValueError("the heads of the two contrasts are nowhere seen in the same place")

    # Leave out what lies farther from these cells than means are blurred.
    box = [np.flatnonzero(counted.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    begin = [max(0, int(used[0]) - CELL_MARGIN) for used in box]
    end = [min(length, int(used[-1]) + 1 + CELL_MARGIN) for used, length in zip(box, grid.shape, strict=True)]
    first = tuple(low + start for low, start in zip(grid.first, begin, strict=True))
    shape = tuple(stop - start for start, stop in zip(begin, end, strict=True))
    return _Grid(first, shape), counted[tuple(map(slice, begin, end))]


def _cell_means(
    placed: Sequence[_PlacedStack], grid: _Grid, counted: np.ndarray, blur_pixels: Sequence[float]
) -> np.ndarray:
    """Return the mean weight of every entry of a table in each cell that counts, (cells, entries) float32."""
    cells = math.prod(grid.shape)
    sums, volume = np.zeros((cells, math.prod(LEVELS)), np.float32), np.zeros(grid.shape, np.float32)
    for stack in placed:
        number, inside = grid.cell_of_voxels(stack)
        cell, voxel_mm3 = number[inside], np.float32(math.prod(stack.stack.sample_mm))
        weights = _entry_weights([axis[inside] for axis in stack.coordinates(blur_pixels)])
        gather = csr_array((np.full(len(cell), voxel_mm3), (cell, np.arange(len(cell)))), shape=(cells, len(cell)))
        sums += (gather @ weights).toarray()
        volume += voxel_mm3 * np.bincount(cell, minlength=cells).reshape(grid.shape).astype(np.float32)
    blurred_sums = gaussian_filter(sums.reshape(*grid.shape, -1), (CELL_BLUR,) * 3 + (0,), mode="constant")
    volume = gaussian_filter(volume, CELL_BLUR, mode="constant")
    return blurred_sums[counted] / np.maximum(volume[counted], 1e-3 * volume.max())[:, None]


def _entry_weights(coordinates: Sequence[np.ndarray]) -> csr_array:
    """Return the weight of every entry of a table for voxels (n,) at coordinates, (n, entries): eight are not 0."""
    below = [np.minimum(axis.astype(np.intp), levels - 2) for axis, levels in zip(coordinates, LEVELS, strict=True)]
    share = [axis - corner for axis, corner in zip(coordinates, below, strict=True)]
    entries, weights = [], []
    for offsets in product((0, 1), repeat=len(LEVELS)):  # the corners about each voxel
        corners = [corner + offset for corner, offset in zip(below, offsets, strict=True)]
        entries.append(np.ravel_multi_index(corners, LEVELS))
        weights.append(reduce(np.multiply, (p if o else 1 - p for p, o in zip(share, offsets, strict=True))))
    voxels = len(coordinates[0])  # whose entries follow each other, ascending: nothing has to be sorted
    rows = np.arange(voxels + 1) * len(entries)
    columns, values = (np.stack(parts, axis=1).ravel() for parts in (entries, weights))
    return csr_array((values, columns, rows), shape=(voxels, math.prod(LEVELS)))


def _air_squares(placed: Sequence[_PlacedStack], blur_pixels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over air voxels of weights times weights (entries, entries), and of weights (entries,)."""
    entries = math.prod(LEVELS)
    squares, sums, count = np.zeros((entries, entries)), np.zeros(entries), 0
    for stack in placed:
        air = ~binary_dilation(stack.head)
        weights = _entry_weights([axis[air][::AIR_STRIDE] for axis in stack.coordinates(blur_pixels)])
        squares += (weights.T @ weights).toarray()
        sums += weights.sum(axis=0)
        count += weights.shape[0]
    return squares / max(1, count), sums / max(1, count)


def _fit(source: np.ndarray, target: np.ndarray, air: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the values of a table (`LEVELS`).

    Args:
        source, target: Cell means (cells, entries) of the two contrasts.
        air: `_air_squares` of the source.
    """
    knots = intensity_knots().astype(np.float32)
    expected = target @ np.broadcast_to(knots[:, None, None], LEVELS).ravel()  # E[y | place] by the table y -> y
    scale, (air_squares, air_sums) = 1000 / len(expected), air
    source = source.astype(np.float64)  # the last digits of sums in float32 would show, and depend on the threads
    squares = scale * (source.T @ source) + 1000 * AIR_WEIGHT * air_squares
    products = scale * (source.T @ expected) - 1000 * AIR_WEIGHT * air_sums
    penalty = ROUGHNESS_WEIGHT * _roughness() + RIDGE * np.eye(len(squares))
    return np.linalg.solve(squares + penalty, products).reshape(LEVELS).astype(np.float32)


def _roughness() -> np.ndarray:
    """Return (entries, entries) of the quadratic form that sums a table's squared second differences along its axes."""
    total = np.zeros((math.prod(LEVELS),) * 2)
    for axis in range(len(LEVELS)):
        factors = [np.eye(levels) for levels in LEVELS]
        differences = np.diff(factors[axis], 2, axis=0)
        factors[axis] = differences.T @ differences
        form: np.ndarray = np.ones((1, 1))
        for factor in factors:
            form = np.kron(form, factor)
        total += form
    return total
