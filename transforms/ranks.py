"""Medians and percentiles of millions of voxels, bitwise equal to numpy's, without sorting or copying them.

A random sample brackets the wanted rank; values below the bracket are counted, and only the few values within it are
partitioned (Floyd and Rivest 1975, "Expected time bounds for selection").
"""

import numpy as np

SAMPLE_SIZE = 1 << 16
MAX_PARTITIONED = 1 << 17  # values up to which the whole array is partitioned
CHUNK_SIZE = 1 << 16  # values; a chunk and its masks fit into a core's cache
DEVIATIONS = 4  # standard deviations of the sample's rank between it and the bracket's ends


def adjacent_order_statistics(values: np.ndarray, rank: int) -> tuple[np.generic, np.generic]:
    """Return the values at `rank` (from 0) and `rank + 1` of the sorted values; the last rank gives its value twice.

    Args:
        values: Numbers without NaN, of any shape.
    """
    values = np.ravel(values)
    next_rank = min(rank + 1, values.size - 1)
    if values.size > MAX_PARTITIONED:
        count_below, inside = _values_in_bracket(values, rank)
        if count_below <= rank and next_rank < count_below + inside.size:
            values, rank, next_rank = inside, rank - count_below, next_rank - count_below
    partitioned = np.partition(values, (rank, next_rank))
    return partitioned[rank], partitioned[next_rank]


def median(values: np.ndarray, first: int, count: int) -> np.generic:
    """Return the median of `count` sorted values from rank `first` on, as `np.median` does."""
    low, high = adjacent_order_statistics(values, first + (count - 1) // 2)
    return low if count % 2 else np.mean([low, high], dtype=values.dtype)


def percentile(values: np.ndarray, percent: float) -> float:
    """Return a percentile (0 to 100), linear between ranks, as `np.percentile` does with an array of percentiles."""
    position = (values.size - 1) * np.float64(percent / 100)
    low, high = adjacent_order_statistics(values, int(position))
    share, step = position - int(position), np.float64(high - low)
    return float(high - step * (1 - share) if share >= 0.5 else low + step * share)


def _values_in_bracket(values: np.ndarray, rank: int) -> tuple[int, np.ndarray]:
    """Return the number of values below a bracket that probably holds the rank and the next, and the values in it."""
    # Find the bracket in a random sample.
    sample = np.sort(values[np.random.default_rng(0).integers(values.size, size=SAMPLE_SIZE)])
    share = rank / values.size
    position, reach = share * SAMPLE_SIZE, DEVIATIONS * (np.sqrt(SAMPLE_SIZE * share * (1 - share)) + 1)
    low, high = sample[max(0, int(position - reach))], sample[min(SAMPLE_SIZE - 1, int(position + reach))]
    if position < reach:
        low = values.min()
    if position + reach >= SAMPLE_SIZE:
        high = values.max()

    # Count the values below it, and collect those within.
    count_below, inside = 0, []
    for start in range(0, values.size, CHUNK_SIZE):
        chunk = values[start : start + CHUNK_SIZE]
        not_below = chunk >= low
        count_below += chunk.size - np.count_nonzero(not_below)
        inside.append(chunk[not_below & (chunk <= high)])
    return count_below, np.concatenate(inside)
