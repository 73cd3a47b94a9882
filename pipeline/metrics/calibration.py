"""How well an expected error tells the observed one: does it rank voxels rightly, and is it of the right size?"""

import numpy as np
from scipy.stats import rankdata

BINS = 10


def rank_correlation(expected: np.ndarray, observed: np.ndarray) -> float:
    """Return Spearman's rank correlation of two samples, ties at their mean rank; NaN where one is constant.

    1: the voxels lie in the same order by both; 0: one says nothing of the other.
    """
    first, second = (rankdata(values, axis=None) for values in (expected, observed))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def calibration_curve(expected: np.ndarray, observed: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return (bins, 2): mean expected and mean observed error of equally filled bins of rising expected error.

    Fewer bins where there are fewer voxels. Equal columns are a perfect calibration. Voxels of one expected error may
    fall into several bins: which of them into which is no one's choice, so each counts with the mean observed error of
    all of them.
    """
    levels, level = np.unique(expected.ravel().astype(float), return_inverse=True)
    level_means = np.bincount(level, observed.ravel()) / np.bincount(level)
    bins_of_levels = np.array_split(np.sort(level), min(bins, len(level)))
    return np.array([(levels[indices].mean(), level_means[indices].mean()) for indices in bins_of_levels]).reshape(
        -1, 2
    )


def calibration_error(curve: np.ndarray) -> float:
    """Return the mean distance between expected and observed error over a curve's equally filled bins."""
    return float(np.abs(curve[:, 0] - curve[:, 1]).mean())
