"""Fingerprints: a volume or a cohort in a few numbers that tell contrasts, spacings and fields of view apart.

Intensities are summarised twice. `head`: the whole head, scaled to [-1, 1] as the network sees it. `core`: the third of
the head that lies deepest below its outline, shifted to a median of 0 and divided by its standard deviation. The core
leaves out scalp and skull and does not depend on the scaling; fluid lies in its dark tail (as in T1) or its bright one
(as in T2). Both are stored as quantiles: the mean absolute difference of two sets is the Wasserstein-1 distance, and
their mean over volumes is the Wasserstein barycentre.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from scipy.ndimage import distance_transform_edt, find_objects

from pipeline.data.statistics import CohortFingerprint, Fingerprint
from transforms.slices import AXES, centre_fit

QUANTILES = 64
COARSE_MM = 4.0  # spacing of the grid that finer volumes are thinned to before they are measured
MIN_PLANE_SHARE = 0.05  # planes with a smaller share of the fullest plane's foreground do not count to the head
RANGE_PERCENTILES = (5, 95)  # percentiles that bound a cohort's sizes, so that one odd volume does not widen the range
MIN_VOXELS = 100  # smallest head on the coarse grid that gets a fingerprint


def volume_fingerprint(data: Mapping[str, Any], axis: str, size: int) -> Fingerprint | None:
    """Return a volume's fingerprint, from the result of `transforms.slice_chain.slice_chain` (of any stride).

    `size` is the side of the training slices: of larger ones only the centre's intensities count, as cropped in
    training, but the whole head's extent. None for pictures, whose pixels have no size, and for heads of fewer than
    `MIN_VOXELS` coarse voxels.
    """
    if "image_type_range" in data:
        return None
    foreground, stack = data["image_foreground"], data["image"]
    axis_index = AXES[axis]
    grid_mm = _slices_first(voxel_sizes(data["image_affine"]), axis_index)

    # Thin the volume to a coarse grid, cropped to the slices' training size.
    steps = np.maximum(1, np.rint(COARSE_MM / grid_mm)).astype(int)
    coarse, coarse_mm = tuple(slice(None, None, step) for step in steps), grid_mm * steps
    whole_head = data["image_whole_foreground"][coarse]
    if max(foreground.shape[1:]) > size:
        height, width = (min(size, length) for length in foreground.shape[1:])
        foreground = centre_fit(foreground, height, width, fill=False)
        stack = centre_fit(stack, height, width, fill=-1)
    foreground, stack = foreground[coarse], stack[coarse]
    if np.count_nonzero(foreground) < MIN_VOXELS:
        return None

    # Measure the head within its bounding box: the air around it would take most of the time.
    box = find_objects(foreground.astype(np.uint8))[0]
    head = foreground[box]
    values, depth = stack[box][head], _depth_mm(head, coarse_mm)[head]
    field = np.array([len(data["image"]), *data["image_before_fit"]]) * grid_mm
    file_affine = data["image_before_spacing"][1] if "image_before_spacing" in data else data["image_affine"]
    return Fingerprint(
        core=_standardised(_quantiles(values[depth >= np.quantile(depth, 2 / 3)])).round(4).tolist(),
        head=_quantiles(values).round(4).tolist(),
        spacing_mm=voxel_sizes(file_affine).round(4).tolist(),
        field_mm=_slices_last(field, axis_index).round(1).tolist(),
        head_mm=_slices_last(_extent(whole_head) * coarse_mm, axis_index).round(1).tolist(),
    )


def cohort_fingerprint(members: Sequence[Fingerprint], coverage_mm: float | None = None) -> CohortFingerprint:
    """Return a cohort's fingerprint from its members' fingerprints (at least one).

    A member's distance from the mean of the others is 0 for a single member. `coverage_mm` is the length of the head
    that was trained on.
    """
    core, head = (np.array([getattr(member, name) for member in members]) for name in ("core", "head"))
    ranges = {
        name: np.percentile([getattr(member, name) for member in members], RANGE_PERCENTILES, axis=0)  # (2, 3)
        for name in ("spacing_mm", "field_mm", "head_mm")
    }
    return CohortFingerprint(
        core=core.mean(axis=0).round(4).tolist(),
        core_reach=round(_distance_p95(core), 4),
        head=head.mean(axis=0).round(4).tolist(),
        head_reach=round(_distance_p95(head), 4),
        **{name: bounds.T.round(4).tolist() for name, bounds in ranges.items()},
        coverage_mm=coverage_mm,
    )


def quantile_distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the Wasserstein-1 distance of two distributions, given the same number of equally spaced quantiles."""
    return float(np.mean(np.abs(np.subtract(first, second))))


def _distance_p95(quantiles: np.ndarray) -> float:
    """Return the 95th percentile of each row's distance from the mean of the others."""
    count = len(quantiles)
    if count == 1:
        return 0.0
    others = (quantiles.sum(axis=0) - quantiles) / (count - 1)
    return float(np.percentile(np.abs(quantiles - others).mean(axis=1), 95))


def _quantiles(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, (np.arange(QUANTILES) + 0.5) / QUANTILES)


def _standardised(quantiles: np.ndarray) -> np.ndarray:
    deviation = np.std(quantiles)
    return (quantiles - np.median(quantiles)) / deviation if deviation > 0 else np.zeros(QUANTILES)


def _depth_mm(head: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Return each voxel's depth below the head's outline. Air surrounds the array, except along axes of one plane."""
    margins = [(1, 1) if length > 1 else (0, 0) for length in head.shape]
    inside = tuple(slice(margin, margin + length) for (margin, _), length in zip(margins, head.shape, strict=True))
    return distance_transform_edt(np.pad(head, margins), sampling=spacing_mm)[inside]


def _extent(head: np.ndarray) -> np.ndarray:
    """Return the head's extent along each axis, in planes."""
    planes = []
    for axis in range(3):
        share = head.sum(axis=tuple(other for other in range(3) if other != axis))
        occupied = np.flatnonzero(share >= MIN_PLANE_SHARE * share.max())
        planes.append(occupied[-1] - occupied[0] + 1)
    return np.array(planes)


def _slices_first(sizes: np.ndarray, axis_index: int) -> np.ndarray:
    """Reorder (R, A, S) to a stack's axes: `cut_slices` moves the sliced axis to the front."""
    return np.array([sizes[axis_index], *np.delete(sizes, axis_index)])


def _slices_last(sizes: np.ndarray, axis_index: int) -> np.ndarray:
    """Undo `_slices_first`."""
    return np.insert(sizes[1:], axis_index, sizes[0])
