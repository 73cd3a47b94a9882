import numpy as np
import pytest
from scipy.stats import spearmanr

from pipeline.metrics.calibration import calibration_curve, calibration_error, rank_correlation


def test_the_rank_correlation_is_scipys_with_ties_and_nan_for_a_constant():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 9, 300), random.normal(size=300)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second)[0], abs=1e-12)
    assert rank_correlation(second, np.exp(second)) == pytest.approx(1)
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5)))


def test_a_curves_bins_are_equally_filled_and_in_order_of_the_expected_error():
    expected = np.array([[4.0, 1.0], [3.0, 2.0]])
    observed = np.array([[40.0, 10.0], [30.0, 20.0]])
    assert calibration_curve(expected, observed, bins=2).tolist() == [[1.5, 15.0], [3.5, 35.0]]
    assert calibration_curve(expected, observed, bins=9).shape == (4, 2)


def test_voxels_of_one_expected_error_count_with_their_mean_in_whatever_order_they_come():
    expected = np.array([0.0] * 6 + [1.0, 2.0])
    observed = np.array([0.0, 0.0, 0.0, 6.0, 6.0, 6.0, 8.0, 10.0])  # of the six the mean is 3
    rising = [[0.0, 3.0], [0.0, 3.0], [0.0, 3.0], [1.5, 9.0]]
    for order in (np.arange(8), np.arange(8)[::-1], np.random.default_rng(0).permutation(8)):
        assert calibration_curve(expected[order], observed[order], bins=4).tolist() == rising
    mixed = calibration_curve(expected[:7], observed[:7], bins=2)  # four and three voxels: 0 0 0 0 | 0 0 1
    np.testing.assert_allclose(mixed, [[0, 3], [1 / 3, (3 + 3 + 8) / 3]])


def test_the_calibration_error_is_the_mean_distance_from_the_diagonal():
    assert calibration_error(np.array([[0.1, 0.2], [0.5, 0.2]])) == pytest.approx(0.2)
