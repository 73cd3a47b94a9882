"""`transforms.mask_regions` in TorchScript: connected regions of masks, for models that run without this package."""

import torch
from torch import Tensor


def with_margin(mask: Tensor) -> Tensor:
    """Return a mask (X, Y, Z) with a margin of air on each side."""
    return torch.nn.functional.pad(mask.to(torch.uint8), [3, 3, 3, 3, 3, 3]).to(torch.bool)


def without_margin(mask: Tensor) -> Tensor:
    """Undo `with_margin`."""
    return mask[3:-3, 3:-3, 3:-3].contiguous()


def without_specks(mask: Tensor, share: float) -> Tensor:
    """Remove regions (six neighbours) smaller than a share of the largest one, from a mask with a margin."""
    starts, stops = _runs(mask)
    if starts.numel() == 0:
        return mask
    regions = _regions(starts, stops, [mask.size(2), mask.size(1) * mask.size(2)])
    sizes = torch.zeros_like(starts).scatter_add(0, regions, stops - starts)
    return _set_runs(mask, starts, stops, (sizes < sizes.max() * share)[regions], False)


def close_gaps(mask: Tensor, iterations: int, axes: list[int]) -> Tensor:
    """Close a mask with a margin (dilate, then erode) with a cross of the given axes, at most twice."""
    for _ in range(iterations):
        mask = dilated(mask, axes)
    outside = ~mask
    for _ in range(iterations):
        outside = dilated(outside, axes)
    return ~outside


def dilated(mask: Tensor, axes: list[int]) -> Tensor:
    """Return a mask with the neighbours of its voxels along some axes."""
    result = mask.clone()
    for axis in axes:
        length = mask.size(axis) - 1
        result.narrow(axis, 1, length).logical_or_(mask.narrow(axis, 0, length))
        result.narrow(axis, 0, length).logical_or_(mask.narrow(axis, 1, length))
    return result


def fill_cavities(body: Tensor) -> Tensor:
    """Fill cavities of a mask with a margin within slices of each of the three orientations, one after the other."""
    body = _fill_planes(body, body.size(2))
    body = _fill_planes(body, body.size(1) * body.size(2))
    across = body.permute(2, 0, 1).contiguous()  # (Z, X, Y)
    return _fill_planes(across, across.size(2)).permute(1, 2, 0).contiguous()


def _fill_planes(body: Tensor, line_step: int) -> Tensor:
    """Fill cavities within planes of the last axis and the axis whose neighbours are `line_step` voxels apart."""
    starts, stops = _runs(~body)
    regions = _regions(starts, stops, [line_step])
    length = body.size(2)
    across_lines = torch.div(starts, length, rounding_mode="floor") != torch.div(
        stops - 1, length, rounding_mode="floor"
    )
    across_lines[0] = True
    across_lines[-1] = True
    outside = torch.zeros_like(across_lines)
    outside[regions[across_lines]] = True
    return _set_runs(body, starts, stops, ~outside[regions], True)


def _runs(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the starts and stops (one after the last voxel) of a mask's runs of True, in one long line."""
    line = torch.nn.functional.pad(mask.reshape(-1).to(torch.int8), [1, 1])
    change = line[1:] - line[:-1]
    return torch.nonzero(change > 0)[:, 0], torch.nonzero(change < 0)[:, 0]


def _regions(starts: Tensor, stops: Tensor, line_steps: list[int]) -> Tensor:
    """Return each run's region: runs are connected if one, shifted by one of `line_steps`, overlaps the other."""
    firsts: list[Tensor] = []
    seconds: list[Tensor] = []
    runs = torch.arange(starts.numel(), device=starts.device)
    for step in line_steps:
        first = torch.searchsorted(stops, starts + step, right=True)
        counts = torch.searchsorted(starts, stops + step) - first  # number of runs that each run overlaps
        firsts.append(torch.repeat_interleave(runs, counts))
        overlaps = torch.arange(firsts[-1].numel(), device=starts.device)
        seconds.append(overlaps + torch.repeat_interleave(first - torch.cumsum(counts, 0) + counts, counts))
    return _components(torch.cat(firsts), torch.cat(seconds), runs)


def _components(first: Tensor, second: Tensor, nodes: Tensor) -> Tensor:
    """Return for each node the smallest one that edges connect it to; the edges are (first, second).

    Roots are hooked to smaller ones and paths halved in turn (Shiloach and Vishkin 1982).
    """
    roots, before = nodes, nodes - 1
    while not torch.equal(roots, before):
        before = roots
        smaller = torch.minimum(roots[first], roots[second])
        roots = roots.scatter_reduce(0, before[first], smaller, "amin")
        roots = roots.scatter_reduce(0, before[second], smaller, "amin")
        roots = roots[roots]
    return roots


def _set_runs(mask: Tensor, starts: Tensor, stops: Tensor, selected: Tensor, value: bool) -> Tensor:
    """Return a copy of a mask with some of its runs set to a value."""
    line = torch.zeros(mask.numel() + 1, dtype=torch.int8, device=mask.device)
    line[starts[selected]] = 1
    line[stops[selected]] = -1
    is_selected = (torch.cumsum(line, 0, dtype=torch.int8)[:-1] > 0).reshape(mask.shape)
    return mask | is_selected if value else mask & ~is_selected
