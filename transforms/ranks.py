"""Medians and percentiles of millions of voxels, to the bit what numpy gives, without sorting or copying them.

A random sample brackets the rank that is asked for; what lies below the bracket is counted, and only the few values
within it are partitioned (Floyd and Rivest 1975, "Expected time bounds for selection").
"""

import numpy as np

SAMPLE = 1 << 16
FEW = 1 << 17  # values that are partitioned whole
CHUNK = 1 << 16  # values that a core's cache holds with what is computed of them
DEVIATIONS = 4  # of the sample's rank, that a bracket reaches to either side


def successive(values: np.ndarray, rank: int) -> tuple[np.generic, np.generic]:
    """Return the values at `rank` (from 0) and `rank + 1` of the sorted values; at the last rank it is both.

    Args:
        values: Numbers without NaN, of any shape.
    """
    values = np.ravel(values)
    after = min(rank + 1, values.size - 1)
    if values.size > FEW:
        below, inside = _bracketed(values, rank)
        if below <= rank and after < below + inside.size:
            values, rank, after = inside, rank - below, after - below
    ordered = np.partition(values, (rank, after))
    return ordered[rank], ordered[after]


def median(values: np.ndarray, first: int, count: int) -> np.generic:
    """Return the median of the `count` values from rank `first` on of the sorted values, as `np.median` does."""
    low, high = successive(values, first + (count - 1) // 2)
    return low if count % 2 else np.mean([low, high], dtype=values.dtype)


def percentile(values: np.ndarray, percent: float) -> float:
    """Return a percentile (0 to 100), linear between ranks, as `np.percentile` does of an array of them."""
    place = (values.size - 1) * np.float64(percent / 100)
    low, high = successive(values, int(place))
    share, step = place - int(place), np.float64(high - low)
    return float(high - step * (1 - share) if share >= 0.5 else low + step * share)


def _bracketed(values: np.ndarray, rank: int) -> tuple[int, np.ndarray]:
    """Return how many values lie below a bracket that should hold the rank and the next, and the values within it."""
    sample = np.sort(values[np.random.default_rng(0).integers(values.size, size=SAMPLE)])
    share = rank / values.size
    place, reach = share * SAMPLE, DEVIATIONS * (np.sqrt(SAMPLE * share * (1 - share)) + 1)
    low, high = sample[max(0, int(place - reach))], sample[min(SAMPLE - 1, int(place + reach))]
    if place < reach:
        low = values.min()
    if place + reach >= SAMPLE:
        high = values.max()
    below, inside = 0, []
    for start in range(0, values.size, CHUNK):
        chunk = values[start : start + CHUNK]
        not_below = chunk >= low
        below += chunk.size - np.count_nonzero(not_below)
        inside.append(chunk[not_below & (chunk <= high)])
    return below, np.concatenate(inside)
