"""Context lookups (`transforms.context_lookup`) from one contrast to another, fitted without a pair.

Heads are centred, and space is cut into cells. Whoever the subjects are, in a cell the same tissues are seen, so that
for a table f from contrast x to contrast y

    E[f(x) | place] = E[y | place],

with means over the training subjects of either contrast. f is linear in its table's values: this is least squares, with
a penalty on second differences that fills what no voxel determines. Air, which both contrasts show as -1, is known
without a mean. Where heads lie in one frame, whole or cut by their scans, says `pipeline.data.cohort_frame`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from pipeline.data.cohort_frame import CELL_BLUR, MIN_HEAD_SHARE, common_frame
from pipeline.data.placed_heads import Grid, Head, find_head, grid_of, head_shares
from pipeline.data.slice_stacks import SliceStack
from transforms.context_lookup import BLUR_MM, LEVELS, ContextTable, intensity_knots
from transforms.linear_tables import entry_weights, roughness
from transforms.mask_regions import bounding_box

CELL_MM = 6.0
CELL_MARGIN = 3  # cells, about those that count: as far as means are blurred
ROUGHNESS_WEIGHT = 0.3  # of the squared second differences; the error on held-out subjects chose no better ones
AIR_WEIGHT = 1.0  # of the mean square over air voxels, against that over cells
AIR_STRIDE = 3  # every how many of them count
RIDGE = 1e-3  # weight of the squared values, for where second differences leave a table undetermined


@dataclass(frozen=True)
class _PlacedHead:
    """A head, and by axis the cell (n,), (h,), (w,) that each of its voxels lies in."""

    head: Head
    cells: tuple[np.ndarray, ...]


def fit_context_tables(stacks: Mapping[str, Sequence[SliceStack]]) -> dict[str, ContextTable]:
    """Fit a table from each of two contrasts to the other; return them by target contrast; raises like `LookupFit`."""
    return LookupFit(stacks).tables()


class LookupFit:
    """The cells of two cohorts' heads, and tables fitted to their means.

    Its products are small: BLAS's threads would wait for each other, and round otherwise, so it uses one. ValueError:
    the heads of the two contrasts are nowhere seen in the same place.
    """

    @threadpool_limits.wrap(limits=1)
    def __init__(self, stacks: Mapping[str, Sequence[SliceStack]]):
        everything = [stack for side in stacks.values() for stack in side]
        cell_mm = np.array([max(CELL_MM, *(stack.sample_mm[axis] for stack in everything)) for axis in range(3)])
        heads = {contrast: [find_head(stack) for stack in side] for contrast, side in stacks.items()}
        frame = common_frame(heads, cell_mm)
        self.placed_heads = {
            contrast: [
                _PlacedHead(head, placement.cells(head.axes_mm, cell_mm))
                for head, placement in zip(side, frame[contrast], strict=True)
            ]
            for contrast, side in heads.items()
        }
        self.grid, self.cell_mask = _head_cells(self.placed_heads)
        self.blur_pixels = {contrast: _blur_pixels(side) for contrast, side in stacks.items()}
        self.means = {contrast: self._means(contrast, side) for contrast, side in self.placed_heads.items()}

    def tables(self) -> dict[str, ContextTable]:
        """Return the table from each contrast to the other, by target contrast."""
        first, second = self.placed_heads
        return {
            target: self._table(source, self.placed_heads[source], self.means[source], target)
            for source, target in ((first, second), (second, first))
        }

    @threadpool_limits.wrap(limits=1)
    def translated_table(self, target: str, stacks: Sequence[SliceStack]) -> ContextTable:
        """Return the table to a contrast from translations to it of the other contrast's heads, in their order."""
        (source,) = self.placed_heads.keys() - {target}
        placed = [
            replace(of_source, head=replace(of_source.head, stack=stack))
            for of_source, stack in zip(self.placed_heads[source], stacks, strict=True)
        ]
        return self._table(source, placed, self._means(source, placed), target)

    def _means(self, contrast: str, placed: Sequence[_PlacedHead]) -> np.ndarray:
        return _cell_means(placed, self.grid, self.cell_mask, self.blur_pixels[contrast])

    @threadpool_limits.wrap(limits=1)
    def _table(self, source: str, placed: Sequence[_PlacedHead], means: np.ndarray, target: str) -> ContextTable:
        blur_pixels = self.blur_pixels[source]
        air = _air_squares([placed_head.head for placed_head in placed], blur_pixels)
        return ContextTable(_fit(means, self.means[target], air), blur_pixels)


def _blur_pixels(stacks: Sequence[SliceStack]) -> tuple[float, ...]:
    """Return the Gaussians' standard deviations in pixels of a contrast's median size."""
    pixel_mm = float(np.median([np.mean(stack.pixel_mm) for stack in stacks]))
    return tuple(sd / pixel_mm for sd in BLUR_MM)


def _head_cells(placed_heads: Mapping[str, Sequence[_PlacedHead]]) -> tuple[Grid, np.ndarray]:
    """Return a box of cells, and which of them count: those in the head of `MIN_HEAD_SHARE` of the subjects."""
    grid = grid_of(head.cells for side in placed_heads.values() for head in side)
    shares, shown = zip(
        *(head_shares(grid, ((head.cells, head.head.mask) for head in side)) for side in placed_heads.values()),
        strict=True,
    )
    cell_mask = np.logical_and(*shown) & (np.mean(shares, axis=0) >= MIN_HEAD_SHARE)
    if not cell_mask.any():
        raise ValueError("the heads of the two contrasts are nowhere seen in the same place")

    # Leave out what lies farther from these cells than means are blurred.
    box = bounding_box(cell_mask, CELL_MARGIN)
    first = tuple(low + bounds.start for low, bounds in zip(grid.first, box, strict=True))
    return Grid(first, cell_mask[box].shape), cell_mask[box]


def _cell_means(
    placed_heads: Sequence[_PlacedHead], grid: Grid, cell_mask: np.ndarray, blur_pixels: Sequence[float]
) -> np.ndarray:
    """Return the mean weight of every entry of a table in each cell that counts, (cells, entries) float32."""
    cells = math.prod(grid.shape)
    sums, volume = np.zeros((cells, math.prod(LEVELS)), np.float32), np.zeros(grid.shape, np.float32)
    for placed_head in placed_heads:
        head = placed_head.head
        number, inside = grid.cell_of_voxels(placed_head.cells)
        cell, voxel_mm3 = number[inside], np.float32(math.prod(head.stack.sample_mm))
        weights = entry_weights([axis[inside] for axis in head.table_coordinates(blur_pixels)], LEVELS)
        gather = csr_array((np.full(len(cell), voxel_mm3), (cell, np.arange(len(cell)))), shape=(cells, len(cell)))
        sums += (gather @ weights).toarray()
        volume += voxel_mm3 * np.bincount(cell, minlength=cells).reshape(grid.shape).astype(np.float32)
    blurred_sums = gaussian_filter(sums.reshape(*grid.shape, -1), (CELL_BLUR,) * 3 + (0,), mode="constant")
    volume = gaussian_filter(volume, CELL_BLUR, mode="constant")
    return blurred_sums[cell_mask] / np.maximum(volume[cell_mask], 1e-3 * volume.max())[:, None]


def _air_squares(heads: Sequence[Head], blur_pixels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over air voxels of weights times weights (entries, entries), and of weights (entries,)."""
    entries = math.prod(LEVELS)
    squares, sums, count = np.zeros((entries, entries)), np.zeros(entries), 0
    for head in heads:
        air = ~binary_dilation(head.mask)
        weights = entry_weights([axis[air][::AIR_STRIDE] for axis in head.table_coordinates(blur_pixels)], LEVELS)
        squares += (weights.T @ weights).toarray()
        sums += weights.sum(axis=0)
        count += weights.shape[0]
    return squares / max(1, count), sums / max(1, count)


def _fit(source: np.ndarray, target: np.ndarray, air: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return a table's values (`LEVELS`) from cell means (cells, entries) and the `_air_squares` of the source."""
    knots = intensity_knots().astype(np.float32)
    expected = target @ np.broadcast_to(knots[:, None, None], LEVELS).ravel()  # E[y | place] by the table y -> y
    scale, (air_squares, air_sums) = 1000 / len(expected), air
    source = source.astype(np.float64)  # the last digits of sums in float32 would show, and depend on the threads
    squares = scale * (source.T @ source) + 1000 * AIR_WEIGHT * air_squares
    products = scale * (source.T @ expected) - 1000 * AIR_WEIGHT * air_sums
    penalty = ROUGHNESS_WEIGHT * roughness(LEVELS).toarray() + RIDGE * np.eye(len(squares))
    return np.linalg.solve(squares + penalty, products).reshape(LEVELS).astype(np.float32)
