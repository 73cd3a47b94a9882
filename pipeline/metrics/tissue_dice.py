"""Dice coefficients of tissue classes: prediction and real image are segmented by intensity, each by itself.

No contrast and no atlas is assumed. The interior of the head is split by intensity into three classes, dark, middle and
bright: in a T1-weighted image mostly fluid, grey and white matter, in a T2-weighted one white matter, grey matter and
fluid. Each image has its own boundaries, so errors of gain or offset do not count; structures that are missing, moved
or of another class than in the real image do. A coil's bias field is mistaken for tissue, in the real image too.
"""

from collections.abc import Sequence

import numpy as np
from scipy.cluster.vq import ClusterError, kmeans2
from scipy.ndimage import distance_transform_edt

CLASSES = ("dark", "middle", "bright")
CLIPPED_PERCENT = 2  # at either end: a few very bright voxels would otherwise draw a boundary to themselves
SAMPLE = 20_000  # voxels, at least, are plenty to place two boundaries
ITERATIONS = 200  # of k-means, to its end
ITERATIONS_FROM_CLASSES = 10  # to converge near the start, not on some other way to split the image
CORE = 0.9  # share of the greatest depth: from here on inwards is the core
REACH = 0.6  # share of the greatest depth: how far the interior reaches beyond the core
COARSE_GRID = 64  # samples along the longest axis: the interior's border needs no finer


def tissue_agreement(prediction: np.ndarray, real: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """Return the Dice coefficient of each class and their mean: "dice", "dice_dark", "dice_middle", "dice_bright".

    Dice = 2 |A ∩ B| / (|A| + |B|) (Dice 1945), from 0 to 1; unrelated images come to about a third in the mean. The
    prediction's boundaries are its own, but their search starts where its classes are as large as the real image's: of
    two ways to split it, the one more like the real image's is found, and like predictions get like figures. A
    prediction that has no three classes tells no tissues apart and scores 0. All are NaN where the real image has no
    three classes, or a voxel is not finite.

    The images have one shape, in any unit; `region` is a bool mask of that shape, such as `interior` of the real
    image's foreground.
    """
    names = [f"dice_{name}" for name in CLASSES]
    ours, truth = prediction[region], real[region]
    actual = tissue_classes(truth)
    if actual is None or not np.isfinite(ours).all():
        return dict.fromkeys(["dice", *names], float("nan"))
    predicted = tissue_classes(ours, reference_classes=actual)
    if predicted is None:
        return dict.fromkeys(["dice", *names], 0.0)
    count = len(CLASSES)
    joint = np.bincount(count * actual + predicted, minlength=count**2).reshape(count, count)
    dice = 2 * joint.diagonal() / (joint.sum(axis=0) + joint.sum(axis=1))
    return {"dice": float(dice.mean())} | {name: float(value) for name, value in zip(names, dice, strict=True)}


def tissue_classes(intensities: np.ndarray, reference_classes: np.ndarray | None = None) -> np.ndarray | None:
    """Split intensities into three classes, 0 the darkest, by k-means (Lloyd 1982; SciPy's implementation).

    Intensities below the 2nd or above the 98th percentile are clipped first. The search is deterministic: it starts
    from the means of the darkest, the middle and the brightest third of the voxels.

    With `reference_classes`, those of another image at the same voxels, it starts with classes as large, and is short.
    Every class is occupied; None for intensities that do not fall into three classes (as where most are one and the
    same), or are not finite.
    """
    if not (len(intensities) and np.isfinite(intensities).all()):
        return None
    clipped = np.clip(intensities, *np.percentile(intensities, [CLIPPED_PERCENT, 100 - CLIPPED_PERCENT]))
    step = max(1, len(clipped) // SAMPLE)
    sample = clipped[::step].astype(np.float64)
    if reference_classes is None:
        sizes = np.full(len(CLASSES), len(sample) / len(CLASSES))
    else:
        sizes = np.bincount(reference_classes[::step], minlength=3)
    start = _group_means(np.sort(sample), sizes)
    if start is None:
        return None
    iterations = ITERATIONS if reference_classes is None else ITERATIONS_FROM_CLASSES
    try:
        centres, _ = kmeans2(sample, start, iter=iterations, minit="matrix", missing="raise")
    except ClusterError:  # a class lost all its voxels
        return None
    classes = np.digitize(clipped, (centres[1:] + centres[:-1]) / 2)
    return classes if np.bincount(classes, minlength=len(CLASSES)).all() else None


def _group_means(ordered: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """Return the means of consecutive groups of these sizes; None where a group is empty or two means are equal."""
    groups = np.split(ordered, np.rint(np.cumsum(sizes)[:-1]).astype(int))
    means = np.array([group.mean() if len(group) else np.nan for group in groups])
    return means if (np.diff(means) > 0).all() else None


def interior(foreground: np.ndarray, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Return the middle of a head, mostly brain, from its outline alone.

    With D the depth of the deepest point below the surface, the interior is all voxels within 0.6 D of a point at least
    0.9 D deep. So a shell of at least 0.3 D is left out, 20 to 25 mm of scalp, skull and outer cortex, and with it face
    and neck, whose bone, air, muscle and fat would make classes of their own. The interior is a third of the head, and
    of the phantom's brain about half; some 6 to 8 % of it is no brain (skull base). The array's border is not a
    surface, for the head may continue beyond it.

    Foreground and interior are (N, H, W) bool; the foreground is filled. Of `spacing_mm`, along its axes, only the
    ratios matter. Where there is no air to measure depth from, the interior is all of the foreground.
    """
    # Reduce the mask to a coarse grid.
    longest = max(length * size for length, size in zip(foreground.shape, spacing_mm, strict=True))
    coarse_steps = [max(1, round(longest / (COARSE_GRID * size))) for size in spacing_mm]
    steps = [min(step, length) for step, length in zip(coarse_steps, foreground.shape, strict=True)]
    coarse = foreground[tuple(slice(step // 2, None, step) for step in steps)]  # each block's middle voxel
    if coarse.all() or not coarse.any():
        return foreground

    # Grow the deepest region, then repeat its values on the fine grid.
    sampling = [step * size for step, size in zip(steps, spacing_mm, strict=True)]
    depth = distance_transform_edt(coarse, sampling)
    deepest = depth.max()
    interior_mask = distance_transform_edt(depth < CORE * deepest, sampling) < REACH * deepest
    for axis, (length, step) in enumerate(zip(foreground.shape, steps, strict=True)):
        interior_mask = interior_mask.take(np.minimum(np.arange(length) // step, interior_mask.shape[axis] - 1), axis)
    return interior_mask & foreground
