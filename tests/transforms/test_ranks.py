"""Ranks by bracketing against numpy's own, to the bit."""

import numpy as np
import pytest

from transforms import ranks
from transforms.ranks import adjacent_order_statistics, median, percentile

KINDS = {
    "spread": lambda random, size: random.standard_normal(size),
    "whole numbers": lambda random, size: random.integers(0, 50, size),
    "mostly zero": lambda random, size: np.where(random.random(size) < 0.9, 0, random.random(size)),
    "one value": lambda random, size: np.full(size, 3.25),
    "sorted": lambda random, size: np.sort(random.standard_normal(size)),
    "far outliers": lambda random, size: random.standard_normal(size) ** 9 * 1e6,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 1000, 40_001])
def test_medians_and_percentiles_are_numpys(kind, size, monkeypatch):
    monkeypatch.setattr(ranks, "MAX_PARTITIONED", 500)
    monkeypatch.setattr(ranks, "SAMPLE_SIZE", 256)
    monkeypatch.setattr(ranks, "CHUNK_SIZE", 999)
    values = KINDS[kind](np.random.default_rng(size), size).astype(np.float32)
    ordered = np.sort(values)
    for percent in (0, 0.5, 1 / 3, 25, 50, 99.5, 100):
        assert percentile(values, percent) == float(np.percentile(values, [percent])[0])
    for first, count in {(0, size), (0, (size + 1) // 2), (size // 2, size - size // 2), (size - 1, 1)}:
        result = median(values, first, count)
        assert result == np.median(ordered[first : first + count]) and result.dtype == np.float32
    for rank in {0, size // 3, size - 1}:
        assert adjacent_order_statistics(values, rank) == (ordered[rank], ordered[min(rank + 1, size - 1)])


def test_a_bracket_that_misses_costs_time_only(monkeypatch):
    monkeypatch.setattr(ranks, "MAX_PARTITIONED", 10)
    monkeypatch.setattr(ranks, "_values_in_bracket", lambda values, rank: (rank + 1, values[:5]))
    values = np.random.default_rng(0).permutation(101).astype(np.float32)
    assert adjacent_order_statistics(values, 40) == (40, 41)


def test_what_is_asked_of_stays_as_it_was_and_any_shape_will_do():
    values = np.random.default_rng(0).standard_normal((60, 50, 60)).astype(np.float32)
    original = values.copy()
    assert percentile(values.swapaxes(0, 2), 12.5) == float(np.percentile(values, [12.5])[0])
    np.testing.assert_array_equal(values, original)
