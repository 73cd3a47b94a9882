import numpy as np
import pytest

from pipeline.metrics.baselines import fit_lookup, histogram_quantiles, look_up, look_up_in_context, match_histogram
from transforms.context_lookup import LEVELS, ContextTable, intensity_knots


def histogram(voxels):
    return np.histogram(voxels, bins=256, range=(-1, 1))[0]


@pytest.fixture
def source():
    generator = np.random.default_rng(0)
    stack = generator.uniform(-0.8, 0.9, (3, 16, 16)).astype(np.float32)
    foreground = np.zeros(stack.shape, bool)
    foreground[:, 4:12, 3:13] = True
    return np.where(foreground, stack, np.float32(-1)), foreground


def test_quantiles_of_a_histogram_are_those_of_the_voxels_it_counted():
    voxels = np.random.default_rng(0).normal(0.1, 0.3, 5000).clip(-1, 1)
    quantiles = histogram_quantiles(histogram(voxels))
    assert np.all(np.diff(quantiles) >= 0)
    shares = [0.1, 0.5, 0.9]
    np.testing.assert_allclose(np.quantile(quantiles, shares), np.quantile(voxels, shares), atol=0.01)


def test_quantiles_keep_the_voxels_clipped_to_the_ends():
    quantiles = histogram_quantiles([10, 0, 0, 0, 0, 0, 0, 30])
    assert np.mean(quantiles > 0.7) == pytest.approx(0.75, abs=0.01)
    assert np.mean(quantiles < -0.7) == pytest.approx(0.25, abs=0.01)


def test_the_context_lookup_reads_its_table_and_leaves_background_black(source):
    stack, foreground = source
    inverted = ContextTable(np.broadcast_to(-intensity_knots()[:, None, None], LEVELS), (1.0, 3.0))
    found = look_up_in_context(stack, foreground, 2.0, table=inverted)
    assert found.dtype == np.float32 and np.all(found[~foreground] == -1)
    np.testing.assert_allclose(found[foreground], -stack[foreground], atol=1e-6)


def test_histogram_matching_gives_the_cohorts_distribution_and_keeps_the_order(source):
    stack, foreground = source
    cohort = np.random.default_rng(1).normal(0.2, 0.2, 20_000).clip(-1, 1)
    matched = match_histogram(stack, foreground, target_quantiles=histogram_quantiles(histogram(cohort)))
    assert matched.dtype == np.float32 and matched.shape == stack.shape
    assert np.all(matched[~foreground] == -1)
    share = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(np.quantile(matched[foreground], share), np.quantile(cohort, share), atol=0.02)
    order = np.argsort(stack[foreground])
    assert np.all(np.diff(matched[foreground][order]) >= 0)


def test_voxels_of_one_intensity_become_the_median_of_what_their_ranks_stand_for():
    stack = np.array([0.0] * 6 + [0.5] * 2 + [0.9, 1.0], np.float32).reshape(1, 2, 5)
    matched = match_histogram(stack, np.ones(stack.shape, bool), target_quantiles=np.arange(10) / 10)
    np.testing.assert_allclose(matched.ravel(), [0.25] * 6 + [0.65] * 2 + [0.8, 0.9], atol=1e-6)  # of 0 to 0.5: 0.25


def test_histogram_matching_of_an_empty_stack_is_background(source):
    stack, foreground = source
    matched = match_histogram(stack, np.zeros_like(foreground), target_quantiles=np.linspace(-1, 1, 100))
    assert np.all(matched == -1)


def test_the_lookup_recovers_an_inverting_table_that_histogram_matching_cannot(source):
    stack, foreground = source
    target = np.where(foreground, -0.5 * stack, -1)
    predicted = look_up(stack, foreground, table=fit_lookup([(stack[foreground], target[foreground])]))
    np.testing.assert_allclose(predicted[foreground], target[foreground], atol=0.01)  # worst beyond the last bin
    typical = np.median(np.abs(predicted - target)[foreground])
    assert typical < 1e-5  # interpolation between bin means is exact on a straight line
    assert np.all(predicted[~foreground] == -1) and predicted.dtype == np.float32
    matched = match_histogram(stack, foreground, target_quantiles=histogram_quantiles(histogram(target[foreground])))
    assert np.corrcoef(matched[foreground], target[foreground])[0, 1] < -0.9


def test_the_lookup_predicts_the_mean_target_of_each_intensity_over_all_pairs():
    low, high, voxels = np.full(4, -0.5), np.full(4, 0.5), np.ones(4)
    table = fit_lookup(iter([(low, 0.2 * voxels), (low, 0.6 * voxels), (high, -0.8 * voxels)]))
    source = np.array([-0.5, 0.5, 0.0, 1.0])  # of both intensities, between them, and beyond what training showed
    predicted = look_up(source, np.ones(4, bool), table=table)
    np.testing.assert_allclose(predicted, [0.4, -0.8, -0.2, -0.8])


def test_nothing_to_fit_on_is_a_clear_error():
    with pytest.raises(ValueError, match="histogram is empty"):
        histogram_quantiles([0, 0, 0])
    with pytest.raises(ValueError, match="at least one training pair"):
        fit_lookup([])
