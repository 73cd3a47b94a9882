"""Whether tissues lie where they should: prediction and real image segmented alike, each by itself, and compared.

Nothing here knows a contrast or an atlas. In the middle of the head each image is split by intensity into three
classes, dark, middle and bright: in a T1-weighted image mostly fluid, grey and white matter, in a T2-weighted one white
matter, grey matter and fluid. The boundaries are each image's own, so an error of gain or offset is forgiven; a
structure that is missing, moved or of another class than in the real image is not. A coil's bias field is taken for
tissue, in the real image too.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.filters import threshold_multiotsu

CLASSES = ("dark", "middle", "bright")
LEVELS = 256  # of intensity, between the clipping percentiles
CLIPPED_PERCENT = 2  # at either end: few very bright voxels would otherwise draw a boundary to themselves
CORE = 0.9  # share of the greatest depth: from here on inwards is the core
REACH = 0.6  # share of the greatest depth: how far the interior reaches beyond the core
COARSE_GRID = 64  # samples along the longest axis: the interior's border needs no finer


def tissue_agreement(prediction: np.ndarray, real: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """Return the Dice coefficient of each class and their mean: "dice", "dice_dark", "dice_middle", "dice_bright".

    Dice = 2 |A ∩ B| / (|A| + |B|) (Dice 1945), from 0 to 1; unrelated images come to about a third. A prediction that
    has no three classes tells no tissues apart and scores 0. All are NaN where the real image has no three classes, or
    a voxel is not finite.

    Args:
        prediction, real: Float arrays of one shape.
        region: Bool array of that shape, such as `interior` of the real image's foreground.
    """
    names = [f"dice_{name}" for name in CLASSES]
    ours, truth = prediction[region], real[region]
    actual = tissue_classes(truth)
    if actual is None or not np.isfinite(ours).all():
        return dict.fromkeys(["dice", *names], float("nan"))
    predicted = tissue_classes(ours)
    if predicted is None:
        return dict.fromkeys(["dice", *names], 0.0)
    count = len(CLASSES)
    joint = np.bincount(count * actual + predicted, minlength=count**2).reshape(count, count)
    dice = 2 * joint.diagonal() / (joint.sum(axis=0) + joint.sum(axis=1))
    return {"dice": float(dice.mean())} | {name: float(value) for name, value in zip(names, dice, strict=True)}


def tissue_classes(intensities: np.ndarray) -> np.ndarray | None:
    """Split intensities into three classes, 0 the darkest: Otsu's thresholds for several classes (Liao et al. 2001).

    They minimise the variance within classes, as k-means does, but their optimum is found by search over all pairs of
    256 levels: no start, no chance. The levels lie between the 2nd and the 98th percentile; what is beyond is clipped.

    Args:
        intensities: (n,) floats, in any unit.

    Returns:
        (n,) integers, every class occupied; None for fewer than three levels, or intensities that are not finite.
    """
    if not (len(intensities) and np.isfinite(intensities).all()):
        return None
    low, high = np.percentile(intensities, [CLIPPED_PERCENT, 100 - CLIPPED_PERCENT])
    if not high > low:
        return None
    levels = np.rint((np.clip(intensities, low, high) - low) * ((LEVELS - 1) / (high - low))).astype(np.uint8)
    counts = np.bincount(levels, minlength=LEVELS)
    if np.count_nonzero(counts) < len(CLASSES):
        return None
    thresholds = threshold_multiotsu(classes=len(CLASSES), hist=(counts, np.arange(LEVELS)))
    return np.searchsorted(thresholds, np.arange(LEVELS))[levels]  # a threshold belongs to the class below it


def interior(foreground: np.ndarray, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Return the middle of a head, mostly brain, from its outline alone.

    With D the depth of the deepest point below the surface, all that lies within 0.6 D of a point at least 0.9 D deep.
    So a shell of at least 0.3 D is left out, 20 to 25 mm of scalp, skull and outer cortex, and with it face and neck,
    whose bone, air, muscle and fat would make classes of their own. What is left is a third of the head, and of the
    phantom's brain about half; some 8 % of it is no brain (skull base). The array's border is no surface, for a head
    may go on there.

    Args:
        foreground: (N, H, W) bool, filled.
        spacing_mm: Of the voxels along the three axes. Only the ratios matter.

    Returns:
        (N, H, W) bool, part of the foreground; the whole of it where there is no air that depth could be measured from.
    """
    longest = max(length * size for length, size in zip(foreground.shape, spacing_mm, strict=True))
    wanted = [max(1, round(longest / (COARSE_GRID * size))) for size in spacing_mm]
    steps = [min(step, length) for step, length in zip(wanted, foreground.shape, strict=True)]
    coarse = foreground[tuple(slice(step // 2, None, step) for step in steps)]  # each block's middle voxel
    if coarse.all() or not coarse.any():
        return foreground
    sampling = [step * size for step, size in zip(steps, spacing_mm, strict=True)]
    depth = distance_transform_edt(coarse, sampling)
    deepest = depth.max()
    near = distance_transform_edt(depth < CORE * deepest, sampling) < REACH * deepest
    for axis, (length, step) in enumerate(zip(foreground.shape, steps, strict=True)):
        near = near.take(np.minimum(np.arange(length) // step, near.shape[axis] - 1), axis)
    return near & foreground
