"""The common frame of two contrasts' training heads, in which a place is one place of every head.

Heads that scans show whole are brought together by their masks: one middle, and one size along each axis. Where a scan
ends within the head, at the neck or below the crown, such a middle and size are those of the scan. Along that axis

- a head is as much longer than another as it is wider and deeper,
- heads of one contrast are shifted onto their mean, by area and brightness of their cross-sections, and
- one contrast is shifted against the other to where a table f of intensities leaves the smallest misfit

    Σ (E[y | place] - E[f(x) | place])² / Σ (E[y | place] - mean)²

in the cells that both contrasts show, mean of both ways: a correlation ratio (Roche et al. 1998) of cell means. The
misfit also decides between this frame and that of the masks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.data.placed_heads import Grid, Head, Placement, grid_of, head_shares

CELL_BLUR = 0.7  # cells: means are blurred by so much, for heads differ
MIN_HEAD_SHARE = 0.05  # of the heads, in a cell that counts
MAX_SCALE = 2.0  # of a head, along an axis; a mask that is a speck would spread its slices over millions of cells
OPEN_SHARE = 0.25  # a head whose last cross-section has more of the largest one's area goes on beyond the scan
MIN_LENGTH_MM = 30.0  # of every scan along every axis; pictures of one slice have no more than masks
MIN_OVERLAP = 0.5  # of the shorter scan, or of the cells of the contrast with fewer, that both must show
MIN_GAIN = 0.15  # by which the logarithm of the misfit must fall for masks to be overruled; less is chance
ROUNDS = 2  # the first finds the range that both contrasts show, the second measures the heads within it
THINNING = 2  # every how many voxels along an axis are looked at
INTENSITIES = 13  # entries of the table of intensities, evenly from -1 to 1
RIDGE = 1e-3  # weight of their squared values, against the mean square of their weights
PROFILE_MM = 2.0  # distance of cross-sections

Placements = dict[str, list[Placement]]


@dataclass(frozen=True)
class _ThinHead:
    """A head, and fewer of its voxels: their intensities and mask (n, h, w), and positions (n,), (h,), (w,) in mm."""

    head: Head
    voxels: np.ndarray
    mask: np.ndarray
    axes_mm: tuple[np.ndarray, ...]


def common_frame(heads: Mapping[str, Sequence[Head]], cell_mm: np.ndarray) -> Placements:
    """Return where the heads of two contrasts lie in one frame, in their order; deterministic.

    `cell_mm`, (3,), is the size of the cells that tables are fitted to.
    """
    best = _by_masks({contrast: [head.middle_and_size_mm() for head in side] for contrast, side in heads.items()})
    all_heads = [head for side in heads.values() for head in side]
    axes = [axis for axis in range(3) if any(_is_cut(head, axis) for head in all_heads)]
    if not axes or min(np.ptp(axis) for head in all_heads for axis in head.axes_mm) < MIN_LENGTH_MM:
        return best
    thin = {contrast: [_thinned(head) for head in side] for contrast, side in heads.items()}
    best_misfit = _misfit(*_cells_of_both(thin, best, cell_mm))
    for axis in axes:
        placements = _match(thin, best, axis, cell_mm)
        misfit = _misfit(*_cells_of_both(thin, placements, cell_mm))
        if misfit < best_misfit - MIN_GAIN:
            best, best_misfit = placements, misfit
    return best


def _by_masks(middles_and_sizes: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]) -> Placements:
    """Move every head's middle to the frame's, and scale it by axis to the mean size."""
    mean_mm = np.mean([size_mm for side in middles_and_sizes.values() for _, size_mm in side], axis=0)
    return {
        contrast: [Placement(middle, np.clip(mean_mm / size, 1 / MAX_SCALE, MAX_SCALE)) for middle, size in side]
        for contrast, side in middles_and_sizes.items()
    }


def _is_cut(head: Head, axis: int) -> bool:
    """Whether a head goes on beyond one end of what is shown of it."""
    areas = np.count_nonzero(head.mask, axis=tuple({0, 1, 2} - {axis}))
    areas = areas[areas > 0]
    return len(areas) > 0 and bool(max(areas[0], areas[-1]) > OPEN_SHARE * areas.max())


def _thinned(head: Head) -> _ThinHead:
    """Return the head with few of its voxels, as copies: views would keep the whole stack in memory."""
    thinning = (slice(None, None, THINNING),) * 3
    axes_mm = tuple(axis[::THINNING] for axis in head.axes_mm)
    return _ThinHead(head, head.voxels(THINNING).copy(), head.mask[thinning].copy(), axes_mm)


def _match(heads: Mapping[str, Sequence[_ThinHead]], start: Placements, axis: int, cell_mm: np.ndarray) -> Placements:
    """Return a frame of heads that scans cut along an axis; along the others they lie by their masks within the cut."""
    placements, range_mm = start, (-math.inf, math.inf)
    first, second = heads
    for _ in range(ROUNDS):
        placements = _sized_within(heads, placements, axis, range_mm)
        placements = {contrast: _onto_mean(side, placements[contrast], axis) for contrast, side in heads.items()}
        shift_mm = _best_shift(*_cells_of_both(heads, placements, cell_mm), axis) * cell_mm[axis]
        placements[second] = [placement.shifted(axis, -shift_mm) for placement in placements[second]]
        ranges = [_usual_range_mm(heads[contrast], placements[contrast], axis) for contrast in (first, second)]
        range_mm = max(low for low, _ in ranges), min(high for _, high in ranges)
    return placements


def _sized_within(
    heads: Mapping[str, Sequence[_ThinHead]], placements: Placements, axis: int, range_mm: tuple[float, float]
) -> Placements:
    """Place heads by their masks within a range along an axis; along it they are scaled as along the other two."""
    middles_and_sizes: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for contrast, side in heads.items():
        middles_and_sizes[contrast] = []
        for thin, placement in zip(side, placements[contrast], strict=True):
            axis_masks = [np.ones(len(positions), dtype=bool) for positions in thin.head.axes_mm]
            along = placement.frame_mm(thin.head.axes_mm)[axis]
            axis_masks[axis] = (along >= range_mm[0]) & (along <= range_mm[1])
            middles_and_sizes[contrast].append(thin.head.middle_and_size_mm(axis_masks))
    scaled = _by_masks(middles_and_sizes)
    for placement in (placement for side in scaled.values() for placement in side):
        placement.scales[axis] = np.sqrt(np.prod(np.delete(placement.scales, axis)))
    return scaled


def _usual_range_mm(heads: Sequence[_ThinHead], placements: Sequence[Placement], axis: int) -> tuple[float, float]:
    """Return the range along an axis of the frame that the scans of one contrast show, medians over them."""
    along = [placement.frame_mm(thin.axes_mm)[axis] for thin, placement in zip(heads, placements, strict=True)]
    return float(np.median([mm[0] for mm in along])), float(np.median([mm[-1] for mm in along]))


def _onto_mean(heads: Sequence[_ThinHead], placements: Sequence[Placement], axis: int) -> list[Placement]:
    """Shift heads of one contrast along an axis to where their cross-sections are most like the mean ones."""
    profiles = [_profile(thin, placement, axis) for thin, placement in zip(heads, placements, strict=True)]
    values = [profile for _, profile in profiles]
    starts = np.array([start for start, _ in profiles])
    order = np.argsort([-len(profile) for profile in values], kind="stable")  # the longest is the first mean
    for others_of in (lambda position: order[:position], lambda position: np.delete(order, position)):
        for position, index in enumerate(order):
            if len(others := others_of(position)):
                mean_start, mean = _mean_profile([(starts[other], values[other]) for other in others])
                starts[index] = mean_start + _best_offset(mean, values[index])
    moved_mm = [(new - old) * PROFILE_MM for new, (old, _) in zip(starts, profiles, strict=True)]
    return [placement.shifted(axis, mm) for placement, mm in zip(placements, moved_mm, strict=True)]


def _profile(thin: _ThinHead, placement: Placement, axis: int) -> tuple[int, np.ndarray]:
    """Return a head's cross-sections along an axis of the frame, `PROFILE_MM` apart: the first position, counted in
    `PROFILE_MM`, and (n, 2) the root of the area, against the largest one's, and the mean brightness, both in [0,
    1].
    """
    across, along = tuple({0, 1, 2} - {axis}), placement.frame_mm(thin.axes_mm)[axis]
    voxels = np.count_nonzero(thin.mask, axis=across)
    width = np.sqrt(voxels / max(1, voxels.max()))
    brightness = np.where(thin.mask, thin.voxels + 1, 0).sum(axis=across) / np.maximum(1, 2 * voxels)
    positions = np.arange(math.ceil(along[0] / PROFILE_MM), math.floor(along[-1] / PROFILE_MM) + 1)
    columns = [np.interp(positions * PROFILE_MM, along, column) for column in (width, brightness)]
    return int(positions[0]), np.stack(columns, axis=1)


def _mean_profile(profiles: Sequence[tuple[int, np.ndarray]]) -> tuple[int, np.ndarray]:
    """Return the mean of profiles (n, 2) with their first positions, from where the first of them begins."""
    start = min(first for first, _ in profiles)
    end = max(first + len(values) for first, values in profiles)
    total, count = np.zeros((end - start, 2)), np.zeros((end - start, 1))
    for first, values in profiles:
        total[first - start : first - start + len(values)] += values
        count[first - start : first - start + len(values)] += 1
    return start, total / np.maximum(1, count)


def _best_offset(mean: np.ndarray, profile: np.ndarray) -> int:
    """Return the offset into a mean profile (n, 2) at which a profile (m, 2) differs least from it."""
    min_overlap = max(1, math.ceil(MIN_OVERLAP * min(len(mean), len(profile))))
    differences = {}
    for offset in range(min_overlap - len(profile), len(mean) - min_overlap + 1):
        start, end = max(0, offset), min(len(mean), offset + len(profile))
        differences[offset] = float(np.mean((mean[start:end] - profile[start - offset : end - offset]) ** 2))
    return min(differences, key=lambda offset: differences[offset])


@dataclass(frozen=True)
class _Cells:
    """What the cells of a contrast's grid (Z, Y, X) hold on average over its heads."""

    grid: Grid
    weights: np.ndarray  # (Z, Y, X, INTENSITIES)
    brightness: np.ndarray  # in [-1, 1]
    share: np.ndarray  # of head
    is_shown: np.ndarray  # bool, by half of the heads

    @property
    def heads(self) -> int:
        """Number of cells with a head in them."""
        return int(np.count_nonzero(self.is_shown & (self.share >= MIN_HEAD_SHARE)))


def _cells_of_both(
    heads: Mapping[str, Sequence[_ThinHead]], placements: Placements, cell_mm: np.ndarray
) -> tuple[_Cells, _Cells]:
    """Return what the cells of either contrast hold."""
    first, second = (_cells(heads[contrast], placements[contrast], cell_mm) for contrast in heads)
    return first, second


def _cells(heads: Sequence[_ThinHead], placements: Sequence[Placement], cell_mm: np.ndarray) -> _Cells:
    """Return what the cells of placed heads of one contrast hold."""
    cells = [placement.cells(thin.axes_mm, cell_mm) for thin, placement in zip(heads, placements, strict=True)]
    grid = grid_of(cells)
    share, is_shown = head_shares(grid, zip(cells, (thin.mask for thin in heads), strict=True))
    size = math.prod(grid.shape)
    weights = np.zeros(size * INTENSITIES)
    for thin, axes in zip(heads, cells, strict=True):
        entry = (thin.voxels.ravel().astype(np.float64) + 1) * ((INTENSITIES - 1) / 2)
        lower = np.minimum(entry.astype(np.intp), INTENSITIES - 2)
        number = grid.cell_of_voxels(axes)[0].ravel() * INTENSITIES + lower
        weights += np.bincount(number, 1 - (entry - lower), weights.size)
        weights += np.bincount(number + 1, entry - lower, weights.size)
    weights = gaussian_filter(weights.reshape(*grid.shape, -1), (CELL_BLUR,) * 3 + (0,), mode="constant")
    voxels = weights.sum(axis=-1, keepdims=True)
    weights /= np.maximum(voxels, 1e-3 * voxels.max())
    return _Cells(grid, weights, weights @ np.linspace(-1, 1, INTENSITIES), share, is_shown)


def _best_shift(first: _Cells, second: _Cells, axis: int) -> float:
    """Return the shift of least misfit along an axis, in cells; 0 where the contrasts have too little in common."""
    ends = [(cells.grid.first[axis], cells.grid.first[axis] + cells.grid.shape[axis]) for cells in (first, second)]
    overlap = math.ceil(MIN_OVERLAP * min(end - start for start, end in ends))
    (first_start, first_end), (second_start, second_end) = ends
    shifts = range(second_start + overlap - first_end, second_end - overlap - first_start + 1)
    misfits = [_misfit(first, second, axis, shift) for shift in shifts]
    best = int(np.argmin(misfits))
    if not np.isfinite(misfits[best]):
        return 0.0

    # Between whole cells take the vertex of a parabola: interpolated means would be smoother than others.
    before, after = (misfits[index] if 0 <= index < len(misfits) else math.inf for index in (best - 1, best + 1))
    bend = before - 2 * misfits[best] + after
    return shifts[best] + ((before - after) / (2 * bend) if 0 < bend < math.inf else 0.0)


def _misfit(first: _Cells, second: _Cells, axis: int = 0, shift: int = 0) -> float:
    """Return the mean logarithm of both ways' misfit, with what lies at x + shift cells in the second brought to x."""
    return (_misfit_one_way(first, second, axis, shift) + _misfit_one_way(second, first, axis, -shift)) / 2


def _misfit_one_way(source: _Cells, target: _Cells, axis: int, shift: int) -> float:
    """Return the logarithm of Σ (E[y] - E[f(x)])² / Σ (E[y] - mean)², inf where too few cells are shown by both."""
    source_box, target_box = _common_box(source.grid, target.grid, axis, shift)
    share = (source.share[source_box] + target.share[target_box]) / 2
    common = source.is_shown[source_box] & target.is_shown[target_box] & (share >= MIN_HEAD_SHARE)
    if np.count_nonzero(common) < max(1.0, MIN_OVERLAP * min(source.heads, target.heads)):
        return math.inf
    weights, expected = source.weights[source_box][common], target.brightness[target_box][common]
    squares = weights.T @ weights / len(weights) + RIDGE * np.eye(INTENSITIES)
    residual = expected - weights @ np.linalg.solve(squares, weights.T @ expected / len(weights))
    return float(np.log(np.mean(residual**2) + 1e-12) - np.log(np.var(expected) + 1e-12))


def _common_box(first: Grid, second: Grid, axis: int, shift: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the part of one grid that lies in another, and that part of the other, which is moved along an axis."""
    boxes = []
    for side in range(3):
        offset = first.first[side] - second.first[side] + (shift if side == axis else 0)
        start = max(0, -offset)
        end = max(start, min(first.shape[side], second.shape[side] - offset))
        boxes.append((slice(start, end), slice(start + offset, end + offset)))
    return tuple(box for box, _ in boxes), tuple(box for _, box in boxes)
