import math
from itertools import product

import numpy as np
import pytest

from pipeline.comparison.table import bootstrap_interval, holm, paired_difference, wilcoxon_p


def slow_signed_rank_p(differences):
    """Two-sided p by trying all signs of the ranks: no ties, no zeros."""
    ranks = np.abs(differences).argsort().argsort() + 1
    centre = ranks.sum() / 2
    observed = abs(ranks[differences > 0].sum() - centre)
    sums = [abs(sum(rank for rank, on in zip(ranks, signs, strict=True) if on) - centre)
            for signs in product((0, 1), repeat=len(ranks))]  # fmt: skip
    return np.mean([value >= observed for value in sums])


@pytest.mark.parametrize("differences", [[1, 2, 3, 4, 5, 6], [1, -2, 3, 4.5, 5, 6, 7], [0.3, -1, 0.2, 2, -0.1]])
def test_p_is_that_of_all_signs_tried(differences):
    differences = np.array(differences, dtype=float)
    assert wilcoxon_p(differences) == pytest.approx(slow_signed_rank_p(differences))


@pytest.mark.parametrize("differences", [[1, 2, 3, 4], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 2, 3, 4]])
def test_there_is_no_p_with_fewer_than_five_differences_that_are_not_zero(differences):
    assert wilcoxon_p(np.array(differences, dtype=float)) is None


def test_the_interval_holds_the_mean_and_comes_out_the_same_again():
    differences = np.random.default_rng(1).normal(0.5, 1, 200)
    low, high = bootstrap_interval(differences)
    assert (low, high) == bootstrap_interval(differences)
    normal = 1.96 * differences.std(ddof=1) / math.sqrt(200)  # which the bootstrap must be near with so many
    assert low == pytest.approx(differences.mean() - normal, abs=0.02)
    assert high == pytest.approx(differences.mean() + normal, abs=0.02)


def test_one_subject_has_no_interval():
    assert all(math.isnan(end) for end in bootstrap_interval(np.array([1.0])))


def test_differences_are_taken_subject_by_subject_and_not_in_order():
    difference = paired_difference("psnr", {"a": 3.0, "b": 1.0, "alone": 9.0}, {"b": 2.0, "a": 1.0})
    assert (difference.mean, difference.n) == (0.5, 2)  # (3 - 1, 1 - 2)


def test_what_is_not_finite_is_left_out():
    inf, nan = float("inf"), float("nan")
    difference = paired_difference(
        "psnr", {"a": inf, "b": nan, "c": 2.0, "d": inf}, {"a": inf, "b": 1.0, "c": 1.0, "d": 1.0}
    )
    assert (difference.mean, difference.n) == (1.0, 1)
    assert paired_difference("psnr", {"a": nan}, {"a": 1.0}).n == 0


def test_holm_steps_down_never_falls_and_stops_at_one():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 × 0.01, then 2 × 0.03, then the larger
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_counts_only_the_tests_that_were_made():
    assert holm([None, 0.02, None]) == [None, 0.02, None]
    assert holm([]) == []
