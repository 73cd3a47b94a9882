"""What a volume is like, in a few numbers that tell contrasts, spacings and fields of view apart; and a cohort's.

Two things are kept of the intensities. `head`: those of the whole head, scaled to [-1, 1] as the network sees them.
`core`: those of the third of the head that lies deepest below its outline, shifted to a median of 0 and divided by
their standard deviation. The core knows neither scalp nor skull, and not what a volume's brightest voxels made of its
scaling; fluid lies in its dark tail (as in T1) or its bright one (as in T2). Both are quantiles, of
which the mean absolute difference is the Wasserstein-1 distance, and their mean over volumes its barycentre.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from nibabel.affines import voxel_sizes
from scipy.ndimage import distance_transform_edt, find_objects

from transforms.slices import AXES, centre_fit

QUANTILES = 64
COARSE_MM = 4.0  # of the grid on which it is measured, where the volume's is finer
FAIR_SHARE = 0.05  # of the fullest plane's head: planes with less do not count into its extent
USUAL = (5, 95)  # percentiles of the cohort between which its sizes lie: one odd volume does not widen them
LEAST_VOXELS = 100  # of a head on the coarse grid


def volume_fingerprint(data: Mapping[str, object], axis: str, size: int, key: str = "image") -> dict | None:
    """Return what a volume is like, in JSON's types.

    Args:
        data: What `transforms.slice_chain.slice_chain` returned, with or without a stride.
        axis: Along which it was cut.
        size: Of the slices in training; of larger ones the middle's intensities count, as it was cut for training, but
            the whole head's extent.
        key: The chain's.

    Returns:
        `core` and `head`: 64 quantiles each; see above. `spacing_mm` of the file, `field_mm` and `head_mm`, the extent
        of what the chain keeps of the volume and of its head: along R, A, S.
        None for a picture, whose pixels have no size, and where there
        are too few voxels to tell.
    """
    if f"{key}_type_range" in data:
        return None
    foreground, stack = data[f"{key}_foreground"], data[key]
    along = AXES[axis]
    grid_mm = _slices_first(voxel_sizes(data[f"{key}_affine"]), along)
    steps = np.maximum(1, np.rint(COARSE_MM / grid_mm)).astype(int)
    coarse, coarse_mm = tuple(slice(None, None, step) for step in steps), grid_mm * steps
    whole = data[f"{key}_whole_foreground"][coarse]
    if max(foreground.shape[1:]) > size:
        square = tuple(min(size, length) for length in foreground.shape[1:])
        foreground, stack = centre_fit(foreground, *square, fill=False), centre_fit(stack, *square, fill=-1)
    foreground, stack = foreground[coarse], stack[coarse]
    if np.count_nonzero(foreground) < LEAST_VOXELS:
        return None
    box = find_objects(foreground.astype(np.uint8))[0]  # the air around takes most of the time
    head = foreground[box]
    values, depth = stack[box][head], _depth_mm(head, coarse_mm)[head]
    field = np.array([len(data[key]), *data[f"{key}_before_fit"]]) * grid_mm
    of_file = data[f"{key}_before_spacing"][1] if f"{key}_before_spacing" in data else data[f"{key}_affine"]
    return {
        "core": _standardised(_quantiles(values[depth >= np.quantile(depth, 2 / 3)])).round(4).tolist(),
        "head": _quantiles(values).round(4).tolist(),
        "spacing_mm": voxel_sizes(of_file).round(4).tolist(),
        "field_mm": _slices_last(field, along).round(1).tolist(),
        "head_mm": _slices_last(_extent(whole) * coarse_mm, along).round(1).tolist(),
    }


def cohort_fingerprint(members: Sequence[Mapping[str, Sequence[float]]]) -> dict:
    """Return what a cohort is like, in JSON's types, from the likeness of its members, at least one.

    `core` and `head`: their members' mean. `core_reach`, `head_reach`: the 95th percentile of the distance of a member
    from the mean of the others, 0 for a single one. `spacing_mm`, `field_mm`, `head_mm`: along R, A, S, the range in
    which nine of ten members lie.
    """
    cohort: dict[str, object] = {}
    for name in ("core", "head"):
        quantiles = np.array([member[name] for member in members])
        cohort[name] = quantiles.mean(axis=0).round(4).tolist()
        cohort[f"{name}_reach"] = round(_reach(quantiles), 4)
    for name in ("spacing_mm", "field_mm", "head_mm"):
        ranges = np.percentile([member[name] for member in members], USUAL, axis=0)  # (2, 3)
        cohort[name] = ranges.T.round(4).tolist()
    return cohort


def quantile_distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the Wasserstein-1 distance of two distributions from as many equally spaced quantiles of each."""
    return float(np.mean(np.abs(np.subtract(first, second))))


def _reach(quantiles: np.ndarray) -> float:
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
    """Return how deep each voxel lies below the head's outline; air surrounds the array, but no lone plane."""
    margins = [(1, 1) if length > 1 else (0, 0) for length in head.shape]
    inside = tuple(slice(margin, margin + length) for (margin, _), length in zip(margins, head.shape, strict=True))
    return distance_transform_edt(np.pad(head, margins), sampling=spacing_mm)[inside]


def _extent(head: np.ndarray) -> np.ndarray:
    """Return over how many planes along each axis a head extends."""
    planes = []
    for axis in range(3):
        share = head.sum(axis=tuple(other for other in range(3) if other != axis))
        shown = np.flatnonzero(share >= FAIR_SHARE * share.max())
        planes.append(shown[-1] - shown[0] + 1)
    return np.array(planes)


def _slices_first(sizes: np.ndarray, along: int) -> np.ndarray:
    """Reorder (R, A, S) as a stack's axes: `cut_slices` moves the sliced axis to the front."""
    return np.array([sizes[along], *np.delete(sizes, along)])


def _slices_last(sizes: np.ndarray, along: int) -> np.ndarray:
    """Undo `_slices_first`."""
    return np.insert(sizes[1:], along, sizes[0])
