"""Connected regions of masks by run lengths: specks dropped, gaps closed, cavities filled.

A mask is taken as one long line of voxels, along which its regions are runs: some hundred thousand of them instead of
ten million voxels. Runs that overlap in neighbouring lines belong together, and connected components of that graph
are the regions (He, Chao and Suzuki 2008, "A run-based two-scan labeling algorithm"). So that no run passes from the
end of a line to the next, and no voxel lacks a neighbour, masks come with `MARGIN` voxels of air all around.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from transforms.slices import contiguous

MARGIN = 3  # voxels: one more than any mask grows by while its gaps are closed


def with_margin(mask: np.ndarray) -> np.ndarray:
    """Return a mask (X, Y, Z) with `MARGIN` voxels of air on each side."""
    return np.pad(mask, MARGIN)


def without_margin(mask: np.ndarray) -> np.ndarray:
    """Undo `with_margin`."""
    return np.ascontiguousarray(mask[(slice(MARGIN, -MARGIN),) * mask.ndim])


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box that holds what is True in a mask, and `MARGIN` voxels on each side of that.

    The whole mask where nothing is True. So `mask[box_of(mask)]` is a mask with a margin, as functions here want it.

    Args:
        mask: (X, Y, Z) bool with a margin, within which the box then lies.
    """
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if len(occupied) == 0:
            return (slice(None),) * mask.ndim
        box.append(slice(occupied[0] - MARGIN, occupied[-1] + 1 + MARGIN))
    return tuple(box)


def without_specks(mask: np.ndarray, share: float = 0.01) -> np.ndarray:
    """Drop regions (of six neighbours) smaller than a share of the largest one.

    Args:
        mask: (X, Y, Z) bool with a margin.
        share: 0 to 1.
    """
    starts, stops = _runs(mask)
    if len(starts) == 0:
        return mask
    lines = (mask.shape[2], mask.shape[1] * mask.shape[2])  # voxels to the next line along Y, and along X
    regions = _regions(starts, stops, lines)
    sizes = np.bincount(regions, weights=stops - starts)
    return _set_runs(mask, starts, stops, (sizes < sizes.max() * share)[regions], False)


def close_gaps(mask: np.ndarray, iterations: int, axes: Sequence[int]) -> np.ndarray:
    """Close a mask (dilate, then erode) with a cross of the given axes, `iterations` times, at most twice.

    Args:
        mask: (X, Y, Z) bool with a margin.
    """
    steps = [math.prod(mask.shape[axis + 1 :]) for axis in axes]  # in the one long line of voxels
    closed = mask.flatten()
    for grow in [np.logical_or] * iterations + [np.logical_and] * iterations:
        before = closed.copy()
        for step in steps:
            grow(closed[step:], before[:-step], out=closed[step:])
            grow(closed[:-step], before[step:], out=closed[:-step])
    return closed.reshape(mask.shape)


def fill_cavities(body: np.ndarray) -> np.ndarray:
    """Fill what is enclosed within any slice of any of the three planes, one plane after the other.

    Args:
        body: (X, Y, Z) bool with a margin.
    """
    filled = body
    for line in (filled.shape[2], filled.shape[1] * filled.shape[2]):  # across (Y, Z) planes, then (X, Z)
        filled = _fill_planes(filled, line)
    across = contiguous(filled.transpose(2, 0, 1))  # (Z, X, Y)
    return contiguous(_fill_planes(across, across.shape[2]).transpose(1, 2, 0))


def _fill_planes(body: np.ndarray, line: int) -> np.ndarray:
    """Fill what is enclosed within planes of the last axis and the one along which neighbours are `line` apart."""
    starts, stops = _runs(~body)
    regions = _regions(starts, stops, [line])
    outside = np.zeros(regions.max() + 1, dtype=bool)
    length = body.shape[-1]
    outside[regions[starts // length != (stops - 1) // length]] = True  # runs of air from a line's end to the next
    outside[regions[[0, -1]]] = True
    return _set_runs(body, starts, stops, ~outside[regions], True)


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the runs of True in a mask, seen as one long line, start and stop (one after the last voxel)."""
    line = np.ascontiguousarray(mask).ravel()
    changes = np.flatnonzero(line[1:] != line[:-1]) + 1
    ends = [[0]] * bool(line[0]) + [changes] + [[len(line)]] * bool(line[-1])
    changes = np.concatenate(ends)
    return changes[::2], changes[1::2]


def _regions(starts: np.ndarray, stops: np.ndarray, lines: Sequence[int]) -> np.ndarray:
    """Return each run's region: runs belong together where one, moved by one of `lines` voxels, overlaps the other."""
    ones, others = [], []
    runs = np.arange(len(starts))
    for line in lines:
        first = np.searchsorted(stops, starts + line, side="right")
        counts = np.searchsorted(starts, stops + line, side="left") - first  # of the runs that each overlaps
        ones.append(np.repeat(runs, counts))
        others.append(np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts))
    pairs = np.concatenate(ones), np.concatenate(others)
    graph = coo_matrix((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(len(runs), len(runs)))
    return connected_components(graph, directed=False)[1]


def _set_runs(mask: np.ndarray, starts: np.ndarray, stops: np.ndarray, chosen: np.ndarray, value: bool) -> np.ndarray:
    """Return a copy of a mask with some of its runs set to a value."""
    starts, lengths = starts[chosen], (stops - starts)[chosen]
    changed = mask.ravel().copy()
    changed[np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)] = value
    return changed.reshape(mask.shape)
