"""Baselines that a translation must beat: the input itself, histogram matching, and two lookup tables.

All take a source stack (N, H, W) in [-1, 1], its foreground, a bool mask of that shape, and the distance of its slices
in mm, which matters to the context lookup alone; they return the prediction in the stack's form. None of them sees
the test subject's own target.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.stats import rankdata

from transforms.context_lookup import ContextTable

BACKGROUND = -1.0
QUANTILES = 2048
LOOKUP_BINS = 128
Baseline = Callable[[np.ndarray, np.ndarray, float], np.ndarray]  # source, foreground, slice_mm -> prediction
Baselines = dict[str, Baseline]  # by name


def copy_input(source: np.ndarray, foreground: np.ndarray, slice_mm: float = 1.0) -> np.ndarray:
    """Return the source as it is."""
    del foreground, slice_mm
    return source.copy()


def match_histogram(
    source: np.ndarray, foreground: np.ndarray, slice_mm: float = 1.0, *, target_quantiles: np.ndarray
) -> np.ndarray:
    """Give the source's foreground the intensity distribution that the target contrast has in the training cohort.

    The distribution is pooled over the training subjects of the target contrast. The order of the source's intensities
    is kept, so a tissue that is dark in one contrast and bright in the other stays wrong. Voxels of equal intensity,
    such as those clipped to -1 and 1, get one value, that of their median rank. Background becomes -1.
    `target_quantiles`, (Q,), are those of the cohort's foreground from `histogram_quantiles`.
    """
    del slice_mm
    prediction = np.full_like(source, BACKGROUND)
    if foreground.any():
        ranks = (rankdata(source[foreground]) - 0.5) / np.count_nonzero(foreground)
        quantiles = (np.arange(len(target_quantiles)) + 0.5) / len(target_quantiles)
        prediction[foreground] = np.interp(ranks, quantiles, target_quantiles)
    return prediction


def look_up(
    source: np.ndarray, foreground: np.ndarray, slice_mm: float = 1.0, *, table: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Predict E[target | source intensity] from a table of `fit_lookup`, linear between levels; background: -1."""
    del slice_mm
    prediction = np.interp(source, *table).astype(source.dtype)
    return np.where(foreground, prediction, source.dtype.type(BACKGROUND))


def look_up_in_context(
    source: np.ndarray, foreground: np.ndarray, slice_mm: float, *, table: ContextTable
) -> np.ndarray:
    """Look intensities and their surroundings up in a table that was fitted without pairs; background: -1."""
    prediction = table.look_up(source, slice_mm)
    return np.where(foreground, prediction, np.float32(BACKGROUND)).astype(source.dtype, copy=False)


def fit_lookup(training_pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Fit the best table from intensity to intensity by least squares.

    It is fitted on pairs, which the unpaired model never sees: for each training subject the (source, target)
    intensities (n,) of the same foreground voxels. The table has (L,) rising source intensities, and the (L,) target
    intensities expected there. ValueError: there is no voxel.
    """
    edges = np.linspace(-1, 1, LOOKUP_BINS + 1)
    counts, source_sums, target_sums = np.zeros((3, LOOKUP_BINS))
    for source, target in training_pairs:
        index = np.clip(np.searchsorted(edges, source, side="right") - 1, 0, LOOKUP_BINS - 1)
        for sums, weights in ((counts, None), (source_sums, source), (target_sums, target)):
            sums += np.bincount(index, weights, LOOKUP_BINS)
    occupied = counts > 0
    if not occupied.any():
        raise ValueError("the intensity lookup needs at least one training pair with foreground, and there is none")
    return source_sums[occupied] / counts[occupied], target_sums[occupied] / counts[occupied]


def histogram_quantiles(counts: Sequence[float]) -> np.ndarray:
    """Return 2048 equally spaced quantiles of a histogram with equal bins over [-1, 1], such as a cohort's pooled one.

    They are a sample of the cohort's foreground voxels with equal weights, for `match_histogram` and
    `pipeline.metrics.similarity.intensity_distance`. Voxels are taken as evenly spread within a bin. ValueError: the
    histogram is empty.
    """
    if not np.any(counts):
        raise ValueError("the target cohort's histogram is empty, so it has no intensity distribution")
    cumulative = np.concatenate([[0], np.cumsum(counts)]) / np.sum(counts)
    edges = np.linspace(-1, 1, len(counts) + 1)
    return np.interp((np.arange(QUANTILES) + 0.5) / QUANTILES, cumulative, edges)
