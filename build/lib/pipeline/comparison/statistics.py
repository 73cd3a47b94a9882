"""Paired tests and bootstrap intervals of differences between two methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

FEWEST = 5  # pairs for a test; the smallest exact two-sided p is 2/2^n, which falls below 0.05 with six
RESAMPLES, LEVEL, SEED = 10_000, 0.95, 0


@dataclass(frozen=True)
class Difference:
    """Difference between two methods over the subjects that both have.

    Attributes:
        mean: Mean difference.
        low, high: 95 % bootstrap interval of the mean; NaN with fewer than two subjects.
        p: p-value of the two-sided Wilcoxon signed-rank test; None if too few subjects.
        p_holm: p-value corrected by Holm's method for the other comparisons of its family; see `holm`.
        n: Number of subjects with figures of both methods.
    """

    mean: float
    low: float
    high: float
    p: float | None
    n: int
    p_holm: float | None = None


def paired_difference(figures: Mapping[str, float], reference: Mapping[str, float]) -> Difference:
    """Return the difference of a method's figures to reference figures, both by subject; only finite ones count."""
    shared = sorted(figures.keys() & reference.keys())
    with np.errstate(invalid="ignore"):  # inf - inf
        differences = np.array([figures[subject] for subject in shared]) - [reference[subject] for subject in shared]
    differences = differences[np.isfinite(differences)]
    mean = float(differences.mean()) if len(differences) else float("nan")
    return Difference(mean, *bootstrap_interval(differences), p=wilcoxon_p(differences), n=len(differences))


def bootstrap_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of (n,) differences (Efron 1979): 95 %, over subjects.

    Subjects are drawn with replacement 10,000 times, always from the same seed. With few subjects such an interval is
    too narrow. NaN with fewer than two.
    """
    if len(differences) < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(SEED)
    means = differences[random.integers(len(differences), size=(RESAMPLES, len(differences)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilcoxon_p(differences: np.ndarray) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test (1945) that (n,) differences are symmetric about 0.

    Zeros are dropped, as Wilcoxon did; SciPy computes p exactly for up to 50 without ties. None with fewer than five
    that are not zero.
    """
    counted = differences[differences != 0]
    return float(wilcoxon(counted).pvalue) if len(counted) >= FEWEST else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected by Holm's step-down method (1979); None (no test) stays None and is not counted."""
    tests = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - rank) * p))
        corrected[index] = highest
    return corrected
