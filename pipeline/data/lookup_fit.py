"""Context lookups (`transforms.context_lookup`) from one contrast to another, fitted without a pair.

Heads are centred, and space is cut into cells. Whoever the subjects are, in a cell the same tissues are seen, so that
for a table f from contrast x to contrast y

    E[f(x) | place] = E[y | place],

with means over the training subjects of either contrast. f is linear in its table's values: this is least squares, with
a penalty on second differences that fills what no voxel determines.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
from scipy.ndimage import center_of_mass, gaussian_filter

from pipeline.data.loader import SliceBank
from pipeline.data.stored_slices import StoredCase, decode
from transforms.context_lookup import BLUR_MM, LEVELS, ContextTable, table_coordinates
from transforms.intensity import foreground_mask
from transforms.slice_chain import PreprocessSettings
from transforms.slices import AXES

CELL_MM = 6.0
CELL_BLUR, CELL_MARGIN = 0.7, 3  # cells: means are blurred by so much, for heads differ, and reach so far
SAMPLE_MM = 2.0  # voxels are thinned out to about this distance
MIN_HEAD_SHARE = 0.05  # of the heads, in a cell that counts: some cells of air do, or a table would not know air
MAX_HEADS, MAX_SLICES = 20, 2000  # of a contrast: so many heads, or more where they have fewer slices (pictures)
ROUGHNESS_WEIGHT = 0.3  # of the squared second differences; the error on held-out subjects chose no better ones
RIDGE = 1e-3  # weight of the squared values, for where second differences leave a table undetermined


@dataclass(frozen=True)
class SliceStack:
    """Slices of one head in one contrast.

    Attributes:
        read: Function that returns them, (N, H, W) float32 in [-1, 1].
        positions_mm: (N,), where they lie across the slices.
        pixel_mm: Height and width of a pixel.
    """

    read: Callable[[], np.ndarray]
    positions_mm: np.ndarray
    pixel_mm: tuple[float, float]

    @property
    def slice_mm(self) -> float:
        """Distance of slices; 1 for a single one."""
        return float(np.diff(self.positions_mm).min()) if len(self.positions_mm) > 1 else 1.0

    @property
    def steps(self) -> tuple[int, int]:
        """Every how many slices, and every how many pixels, voxels are used."""
        return max(1, int(SAMPLE_MM / self.slice_mm)), max(1, int(SAMPLE_MM / max(self.pixel_mm)))

    @property
    def sample_mm(self) -> tuple[float, float, float]:
        """Distances of the voxels that are used, of slices, rows and columns."""
        slices, pixels = self.steps
        return slices * self.slice_mm, pixels * self.pixel_mm[0], pixels * self.pixel_mm[1]


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


def stored_stacks(
    stored: Mapping[str, Sequence[StoredCase]], settings: PreprocessSettings
) -> dict[str, list[SliceStack]]:
    """Return the stacks of cached training slices by contrast, of few enough heads, evenly chosen.

    Args:
        stored: The training cases by contrast.
        settings: How they became slices.
    """
    return {
        contrast: [_stored_stack(entry, settings) for entry in _evenly_chosen(entries)]
        for contrast, entries in stored.items()
    }


def _evenly_chosen(entries: Sequence[StoredCase]) -> list[StoredCase]:
    slices = sum(entry.count for entry in entries) / max(1, len(entries))
    count = min(len(entries), max(MAX_HEADS, int(MAX_SLICES / max(1, slices))))
    return [entries[index * len(entries) // count] for index in range(count)]


def _stored_stack(entry: StoredCase, settings: PreprocessSettings) -> SliceStack:
    rows_mm, columns_mm = np.delete(entry.statistics.spacing_mm, AXES[settings.axis]).tolist()
    if settings.spacing_mm is not None:
        rows_mm = columns_mm = settings.spacing_mm[0]
    bank, positions_mm = SliceBank([entry]), np.asarray(entry.positions) * entry.statistics.slice_mm
    return SliceStack(lambda: decode(bank.volume(0)), positions_mm, (rows_mm, columns_mm))


def fit_context_tables(stacks: Mapping[str, Sequence[SliceStack]]) -> dict[str, ContextTable]:
    """Fit a table from each of two contrasts to the other; return them by target contrast.

    Args:
        stacks: Contrast -> its training heads.

    Raises:
        ValueError: the heads of the two contrasts are nowhere seen in the same place.
    """
    everything = [stack for side in stacks.values() for stack in side]
    blur_pixels = tuple(sd / float(np.median([np.mean(stack.pixel_mm) for stack in everything])) for sd in BLUR_MM)
    cell_mm = tuple(max(CELL_MM, *(stack.sample_mm[axis] for stack in everything)) for axis in range(3))
    placed = {contrast: [_place(stack, cell_mm) for stack in side] for contrast, side in stacks.items()}
    grid, counted = _head_cells(placed)
    means = {contrast: _cell_means(side, grid, counted, blur_pixels) for contrast, side in placed.items()}
    first, second = stacks
    return {
        target: ContextTable(_fit(means[source], means[target]), blur_pixels)
        for source, target in ((first, second), (second, first))
    }


def _place(stack: SliceStack, cell_mm: Sequence[float]) -> _PlacedStack:
    """Find the head in a stack, and the cells of its voxels, from the head's centre of mass."""
    slice_step, pixel_step = stack.steps
    voxels = stack.read()[::slice_step, ::pixel_step, ::pixel_step]
    head = foreground_mask(voxels) if voxels.min() < voxels.max() else np.zeros(voxels.shape, dtype=bool)
    rows, columns = (np.arange(n) * pixel_step * mm for n, mm in zip(head.shape[1:], stack.pixel_mm, strict=True))
    axes_mm = (stack.positions_mm[::slice_step], rows, columns)
    centre = center_of_mass(head) if head.any() else [(n - 1) / 2 for n in head.shape]
    cells = tuple(
        np.floor((axis - np.interp(middle, np.arange(len(axis)), axis)) / cell + 0.5).astype(int)
        for axis, middle, cell in zip(axes_mm, centre, cell_mm, strict=True)
    )
    return _PlacedStack(stack, head, cells)


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
    entries = math.prod(LEVELS)
    sums, volume = np.zeros(math.prod(grid.shape) * entries, np.float32), np.zeros(grid.shape, np.float32)
    for stack in placed:
        number, inside = grid.cell_of_voxels(stack)
        cells, voxel_mm3 = number[inside], np.float32(math.prod(stack.stack.sample_mm))
        coordinates = [axis[inside] for axis in stack.coordinates(blur_pixels)]
        below = [np.minimum(axis.astype(np.intp), levels - 2) for axis, levels in zip(coordinates, LEVELS, strict=True)]
        share = [axis - corner for axis, corner in zip(coordinates, below, strict=True)]
        for offsets in product((0, 1), repeat=len(LEVELS)):  # the corners about each voxel
            entry = np.ravel_multi_index(
                [corner + offset for corner, offset in zip(below, offsets, strict=True)], LEVELS
            )
            factors = (part if offset else 1 - part for part, offset in zip(share, offsets, strict=True))
            weight = reduce(np.multiply, factors, voxel_mm3).astype(np.float32)
            np.add.at(sums, cells * entries + entry, weight)
        volume += voxel_mm3 * np.bincount(cells, minlength=volume.size).reshape(grid.shape).astype(np.float32)
    sums = gaussian_filter(sums.reshape(*grid.shape, -1), (CELL_BLUR,) * 3 + (0,), mode="constant")
    volume = gaussian_filter(volume, CELL_BLUR, mode="constant")
    return sums[counted] / np.maximum(volume[counted], 1e-3 * volume.max())[:, None]


def _fit(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the values of a table (`LEVELS`) from the cell means (cells, entries) of the source and the target."""
    corners = np.linspace(-1, 1, LEVELS[0], dtype=np.float32)
    expected = target @ np.broadcast_to(corners[:, None, None], LEVELS).ravel()  # E[y | place] by the table y -> y
    scale = 1000 / len(expected)
    squares, products = (np.float64(scale) * (source.T @ side) for side in (source, expected))
    penalty = ROUGHNESS_WEIGHT * _roughness() + RIDGE * np.eye(len(squares))
    return np.linalg.solve(squares + penalty, products).reshape(LEVELS).astype(np.float32)


def _roughness() -> np.ndarray:
    """Return (entries, entries) of the quadratic form that sums a table's squared second differences along its axes."""
    total = np.zeros((math.prod(LEVELS),) * 2)
    for axis in range(len(LEVELS)):
        factors = [np.eye(levels) for levels in LEVELS]
        differences = np.diff(factors[axis], 2, axis=0)
        factors[axis] = differences.T @ differences
        total += reduce(np.kron, factors)
    return total
