"""Measures of how well an expected error predicts the observed one: rank correlation and calibration error."""

import numpy as np
from scipy.stats import rankdata

BINS = 10


def rank_correlation(expected: np.ndarray, observed: np.ndarray) -> float:
    """Return Spearman's rank correlation of two samples, ties at their mean rank; NaN where one is constant.

    1: both put the voxels into the same order; 0: their orders are unrelated.
    """
    first, second = (rankdata(values, axis=None) for values in (expected, observed))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def calibration_curve(expected: np.ndarray, observed: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return (bins, 2): mean expected and mean observed error of equally filled bins of rising expected error.

    There are fewer bins where there are fewer voxels. Equal columns are a perfect calibration. Voxels of equal expected
    error may fall into several bins. Their order is arbitrary, so each counts with the mean observed error of all of
    them.
    """
    levels, level = np.unique(expected.ravel().astype(float), return_inverse=True)
    level_means = np.bincount(level, observed.ravel()) / np.bincount(level)
    bins_of_levels = np.array_split(np.sort(level), min(bins, len(level)))
    curve = [(levels[indices].mean(), level_means[indices].mean()) for indices in bins_of_levels]
    return np.array(curve).reshape(-1, 2)


def calibration_error(curve: np.ndarray) -> float:
    """Return the mean distance between expected and observed error over a curve's equally filled bins."""
    return float(np.abs(curve[:, 0] - curve[:, 1]).mean())
