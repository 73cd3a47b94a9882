import numpy as np
import pytest

from pipeline.evaluation.uncertainty_fit import calibration_curve, fit_calibration, join_features, rank_correlation
from pipeline.inference.uncertainty import Features

COUNT = 4000


def test_the_rank_correlation_has_ties_and_is_nan_for_a_constant():
    assert rank_correlation(np.array([1, 2, 2, 3]), np.array([1, 3, 2, 4])) == pytest.approx(0.9486833)  # by hand
    assert rank_correlation(np.array([0.1, 3, 9]), np.exp([0.1, 3, 9])) == pytest.approx(1)
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


def features_of(count=COUNT, seed=0):
    """Return features whose four parts know nothing of each other."""
    random = np.random.default_rng(seed)
    return Features(*random.uniform(-1, 1, (2, count)), *random.uniform(0, 1, (2, count)))


def test_the_fit_finds_the_weights_and_expects_the_mean_error():
    features = features_of()
    mean = 0.1 + 0.3 * features.spread + 0.6 * features.cycle
    calibration = fit_calibration(features, mean * np.random.default_rng(1).uniform(0.5, 1.5, COUNT), subjects=2)
    assert calibration.cycle_weight / calibration.spread_weight == pytest.approx(2, rel=0.1)
    assert (
        rank_correlation(
            calibration.expected(features_of(seed=3)),
            0.3 * features_of(seed=3).spread + 0.6 * features_of(seed=3).cycle,
        )
        > 0.9
    )
    assert calibration.expected(features).mean() == pytest.approx(mean.mean(), rel=0.02)
    assert (calibration.subjects, calibration.voxels) == (2, COUNT)


def test_intensities_that_are_often_wrong_are_expected_to_be_even_where_nothing_varies():
    features = features_of()._replace(cycle=None, spread=np.zeros(COUNT))
    wrong = (np.abs(features.source) < 0.3) & (features.translated > 0)
    calibration = fit_calibration(features, 0.1 + wrong)
    middle = Features(np.array([0.0, 0.0, 0.8]), np.array([0.5, -0.5, 0.5]), None, np.zeros(3))
    np.testing.assert_allclose(calibration.expected(middle), [1.1, 0.1, 0.1], atol=0.1)


def test_a_feature_that_runs_against_the_error_is_left_out_of_the_sum():
    features = features_of()
    calibration = fit_calibration(features, 0.5 - 0.3 * features.cycle + 0.2 * features.spread)
    assert calibration.cycle_weight == 0 < calibration.spread_weight
    assert (np.diff(calibration.sums) > 0).all()


def test_what_says_nothing_gets_the_mean_error_wherever_it_lies():
    """Also where source, translation and sum are at one value, or at one that no voxel of the fit had."""
    errors = np.random.default_rng(1).uniform(0, 1, COUNT)
    for constant in (0.0, 0.1, 1 / 3):
        same = np.full(COUNT, constant)
        calibration = fit_calibration(Features(same, same, None, same), errors)
        elsewhere = np.array([-1.0, constant, 1.0])
        expected = calibration.expected(Features(elsewhere, elsewhere, None, np.array([0.0, constant, 9.0])))
        np.testing.assert_allclose(expected, errors.mean(), atol=0.01)


def test_errors_are_expected_from_0_to_2_alone():
    features = features_of(200)
    calibration = fit_calibration(features, np.random.default_rng(2).choice([0.0, 2.0], 200))
    assert np.min(calibration.errors) >= 0 and np.max(calibration.errors) <= 2


def test_no_voxel_is_an_error_and_samples_are_joined_in_order():
    with pytest.raises(ValueError, match="no voxel"):
        fit_calibration(features_of(0), np.zeros(0))
    joined = join_features([features_of(3), features_of(2, seed=1)])
    np.testing.assert_array_equal(joined.source, [*features_of(3).source, *features_of(2, seed=1).source])
    assert joined.cycle.shape == (5,) and join_features([features_of(3)._replace(cycle=None)]).cycle is None
