"""Training heads, and the cells of a common frame that their voxels lie in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.slice_stacks import SliceStack
from transforms.context_lookup import table_coordinates
from transforms.intensity import foreground_mask


@dataclass(frozen=True)
class Head:
    """The head in a stack's thinned voxels."""

    stack: SliceStack
    mask: np.ndarray  # (n, h, w) bool
    axes_mm: tuple[np.ndarray, ...]  # for each axis, the positions (n,), (h,), (w,) of its voxels

    def voxels(self, stride: int = 1) -> np.ndarray:
        """Return the intensities (n, h, w) of every so many of its voxels."""
        slice_step, pixel_step = (stride * step for step in self.stack.steps)
        return self.stack.slices()[::slice_step, ::pixel_step, ::pixel_step]

    def table_coordinates(self, blur_pixels: Sequence[float]) -> list[np.ndarray]:
        """Return the voxels' coordinates in a table, see `transforms.context_lookup.table_coordinates`."""
        slice_step, pixel_step = self.stack.steps
        slices, *blurred = (stack[::slice_step] for stack in (self.stack.slices(), *self.stack.blurred_across()))
        return table_coordinates(slices, blurred, blur_pixels, pixel_step)

    def middle_and_size_mm(self, axis_masks: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation (at least a voxel) of the head's positions by axis, (3,) each.

        `axis_masks`, (n,), (h,), (w,) bool, are the slices, rows and columns that count; where no head is in them, all
        voxels do.
        """
        mask = self.mask
        if axis_masks is not None:
            slices, rows, columns = axis_masks
            mask = mask & slices[:, None, None] & rows[:, None] & columns
        indices = np.nonzero(mask if mask.any() else np.ones_like(mask))
        positions = [axis[index] for axis, index in zip(self.axes_mm, indices, strict=True)]
        middle_mm = np.array([position.mean() for position in positions])
        return middle_mm, np.maximum([position.std() for position in positions], self.stack.sample_mm)


def find_head(stack: SliceStack) -> Head:
    """Find the head in a stack; without any contrast in it there is none."""
    slice_step, pixel_step = stack.steps
    voxels = stack.slices()[::slice_step, ::pixel_step, ::pixel_step]
    mask = foreground_mask(voxels) if voxels.min() < voxels.max() else np.zeros(voxels.shape, dtype=bool)
    rows, columns = (np.arange(n) * pixel_step * mm for n, mm in zip(mask.shape[1:], stack.pixel_mm, strict=True))
    return Head(stack, mask, (stack.positions_mm[::slice_step], rows, columns))


@dataclass(frozen=True)
class Placement:
    """Where a head lies in the common frame: at (position - `middle_mm`) * `scales`, in mm, axis by axis."""

    middle_mm: np.ndarray
    scales: np.ndarray

    def frame_mm(self, axes_mm: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return where positions (n,), (h,), (w,) along a head's axes lie in the frame."""
        return [(a - middle) * scale for a, middle, scale in zip(axes_mm, self.middle_mm, self.scales, strict=True)]

    def shifted(self, axis: int, frame_mm: float) -> "Placement":
        """Return the placement of a head that lies farther along an axis of the frame."""
        middle_mm = self.middle_mm.copy()
        middle_mm[axis] -= frame_mm / self.scales[axis]
        return Placement(middle_mm, self.scales)

    def cells(self, axes_mm: Sequence[np.ndarray], cell_mm: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the index of the cell that each position lies in, by axis; cell 0 has the frame's middle within."""
        axes = zip(self.frame_mm(axes_mm), cell_mm, strict=True)
        return tuple(np.floor(positions / cell + 0.5).astype(int) for positions, cell in axes)


@dataclass(frozen=True)
class Grid:
    """A box of cells."""

    first: tuple[int, ...]
    shape: tuple[int, ...]

    def cell_of_voxels(self, cells: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, h, w) the number of each voxel's cell, and whether it lies in the box.

        `cells` has by axis the cell of every slice, row and column, (n,), (h,), (w,).
        """
        axes = [axis - first for axis, first in zip(cells, self.first, strict=True)]
        inside = [(axis >= 0) & (axis < length) for axis, length in zip(axes, self.shape, strict=True)]
        clipped = np.ix_(*(np.clip(axis, 0, length - 1) for axis, length in zip(axes, self.shape, strict=True)))
        number = np.ravel_multi_index(np.broadcast_arrays(*clipped), self.shape)
        slices, rows, columns = inside
        return number, slices[:, None, None] & rows[:, None] & columns


def grid_of(heads: Iterable[Sequence[np.ndarray]]) -> Grid:
    """Return the box of all cells that heads' voxels lie in, given by axis for each head."""
    extents = [[(axis.min(), axis.max()) for axis in cells] for cells in heads]
    lowest, highest = np.min(extents, axis=(0, 2)), np.max(extents, axis=(0, 2))
    return Grid(tuple(lowest.tolist()), tuple((highest - lowest + 1).tolist()))


def head_shares(grid: Grid, heads: Iterable[tuple[Sequence[np.ndarray], np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return by cell of a grid the share of it that is head, a mean over heads that show it, and if half of them do.

    `heads` has for each the cells by axis and the mask of its voxels.
    """
    share, shown, count = np.zeros(grid.shape), np.zeros(grid.shape), 0
    for cells, mask in heads:
        number = grid.cell_of_voxels(cells)[0].ravel()
        voxels = np.bincount(number, minlength=share.size).reshape(grid.shape)
        share += np.bincount(number, mask.ravel(), share.size).reshape(grid.shape) / np.maximum(1, voxels)
        shown += voxels > 0
        count += 1
    return share / np.maximum(1, shown), 2 * shown >= count
