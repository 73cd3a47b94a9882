"""Baselines that a translation must beat: the input itself, histogram matching, and an intensity lookup table.

All take a source stack (N, H, W) in [-1, 1] and its foreground, a bool mask of that shape, and return the prediction
in the same form. None of them sees the test subject's own target.
"""

from collections.abc import Iterable, Sequence

import numpy as np

BACKGROUND = -1.0
QUANTILES = 2048


def copy_input(source: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Return the source as it is."""
    del foreground
    return source.copy()


class HistogramMatch:
    """Give the source's foreground the intensity distribution that the target contrast has in the training cohort.

    The distribution is pooled over the training subjects of the target contrast. The order of the source's intensities
    is kept, so a tissue that is dark in one contrast and bright in the other stays wrong. Voxels of equal intensity,
    such as those clipped to -1 and 1, get one value, that of their median rank. Background becomes -1.
    """

    def __init__(self, target_quantiles: np.ndarray):
        """Keep (Q,) equally spaced quantiles of the target cohort's foreground, as `histogram_quantiles` gives them."""
        self.target_quantiles = target_quantiles

    def __call__(self, source: np.ndarray, foreground: np.ndarray) -> np.ndarray:
        matched = np.full_like(source, BACKGROUND)
        if foreground.any():
            _, level, counts = np.unique(source[foreground], return_inverse=True, return_counts=True)
            ranks = (np.cumsum(counts) - counts / 2) / counts.sum()  # of each intensity, in the middle of its voxels
            quantiles = (np.arange(len(self.target_quantiles)) + 0.5) / len(self.target_quantiles)
            matched[foreground] = np.interp(ranks, quantiles, self.target_quantiles)[level]
        return matched


class IntensityLookup:
    """Predict E[target | source intensity], the best table from intensity to intensity by least squares.

    It is fitted on the voxels of training subjects with both contrasts on one grid, so on pairs, which the unpaired
    model never sees. Between bin centres it interpolates linearly. Background becomes -1.
    """

    def __init__(self, source_levels: np.ndarray, target_levels: np.ndarray):
        """Keep the table: (L,) rising source intensities and the (L,) target intensities expected there."""
        self.source_levels, self.target_levels = source_levels, target_levels

    @classmethod
    def fit(
        cls, training_pairs: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], bins: int = 128
    ) -> "IntensityLookup":
        """Fit on (source, target, foreground) arrays, one triple per training pair, read once and one at a time.

        Raises:
            ValueError: there is no pair with any foreground.
        """
        edges = np.linspace(-1, 1, bins + 1)
        counts, source_sums, target_sums = np.zeros(bins), np.zeros(bins), np.zeros(bins)
        for source, target, foreground in training_pairs:
            values, expected = source[foreground], target[foreground]
            index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
            counts += np.bincount(index, minlength=bins)
            source_sums += np.bincount(index, weights=values, minlength=bins)
            target_sums += np.bincount(index, weights=expected, minlength=bins)
        occupied = counts > 0
        if not occupied.any():
            raise ValueError("the intensity lookup needs at least one training pair with foreground, and there is none")
        return cls(source_sums[occupied] / counts[occupied], target_sums[occupied] / counts[occupied])

    def __call__(self, source: np.ndarray, foreground: np.ndarray) -> np.ndarray:
        looked_up = np.interp(source, self.source_levels, self.target_levels).astype(source.dtype)
        return np.where(foreground, looked_up, source.dtype.type(BACKGROUND))


def histogram_quantiles(counts: Sequence[float]) -> np.ndarray:
    """Return 2048 equally spaced quantiles of a histogram with equal bins over [-1, 1], such as a cohort's pooled one.

    They are a sample of the cohort's foreground voxels with equal weights, for `HistogramMatch` and
    `pipeline.metrics.similarity.intensity_distance`. Voxels are taken as evenly spread within a bin.

    Raises:
        ValueError: the histogram is empty.
    """
    if not np.any(counts):
        raise ValueError("the target cohort's histogram is empty, so it has no intensity distribution")
    cumulative = np.concatenate([[0], np.cumsum(counts)]) / np.sum(counts)
    edges = np.linspace(-1, 1, len(counts) + 1)
    return np.interp((np.arange(QUANTILES) + 0.5) / QUANTILES, cumulative, edges)
