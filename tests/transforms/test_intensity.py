import numpy as np
import pytest
import SimpleITK as sitk

from pipeline.data.sources.phantom import make_subject
from pipeline.data.sources.phantom_anatomy import head_fractions
from transforms.intensity import correct_bias_field, foreground_mask, percentile_range, scale_from_unit, scale_to_unit


@pytest.fixture(scope="module")
def scans():
    return make_subject(seed=0, number=1, spacing_mm=4.0, contrasts=("T1", "T2"))


@pytest.fixture(scope="module")
def whole_head():
    """Where the phantom's anatomy is, whatever it looks like."""
    fractions = head_fractions(np.random.default_rng([0, 1, 0]), spacing_mm=4.0)
    return sum(fractions.values()) > 0.5


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def ball(shape, radius):
    grid = np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    return np.linalg.norm(grid, axis=0) <= radius


# ── foreground ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("contrast", ["T1", "T2"])
def test_the_foreground_is_the_whole_filled_head(scans, whole_head, contrast):
    assert dice(foreground_mask(scans[contrast]), whole_head) > 0.97


def test_a_dim_scalp_is_foreground_and_what_is_dimmer_than_noise_may_be_is_not():
    volume = np.full((24, 24, 24), 10, np.float32)
    head, brain = ball(volume.shape, 10), ball(volume.shape, 8)
    volume[ball(volume.shape, 11)] = 20  # 11 % of the way from air to tissue
    volume[head], volume[brain] = 28, 100  # the scalp at 20 %
    assert np.array_equal(foreground_mask(volume), head)


# ── scaling ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_percentiles_are_those_of_the_foreground_alone():
    volume = np.concatenate([np.full(1000, -5.0), np.arange(101.0)]).reshape(-1, 1, 1)
    assert percentile_range(volume, volume >= 0, 1, 95) == (1, 95)


def test_percentiles_that_coincide_are_an_error_with_a_remedy():
    volume = np.array([3.0] * 99 + [8.0]).reshape(-1, 1, 1)
    with pytest.raises(ValueError, match=r"percentiles 1 and 50 of .* \(100 voxels\) are both 3, .*; give a scan"):
        percentile_range(volume, np.ones(volume.shape, bool), 1, 50)


def test_a_foreground_without_a_voxel_is_an_error_with_a_remedy():
    volume = np.arange(8.0).reshape(2, 2, 2)
    with pytest.raises(ValueError, match=r"no head is to be seen in it, .*; give a scan, no mask and no empty volume"):
        percentile_range(volume, volume > 8, 1, 99)


def test_the_range_becomes_minus_one_to_one_and_the_rest_is_clipped():
    volume = np.array([0, 100, 150, 200, 300], np.int16).reshape(-1, 1, 1)
    scaled = scale_to_unit(volume, 100, 200)
    assert scaled.ravel().tolist() == [-1, -1, 0, 1, 1]
    assert scaled.dtype == np.float32
    assert volume.ravel().tolist() == [0, 100, 150, 200, 300]


def test_scaling_back_restores_what_was_not_clipped():
    volume = np.random.default_rng(0).uniform(-40, 900, (6, 5, 4)).astype(np.float32)
    low, high = float(volume.min()), float(volume.max())
    np.testing.assert_allclose(scale_from_unit(scale_to_unit(volume, low, high), low, high), volume, atol=1e-3)
    assert scale_from_unit(np.array([-1.0, 0, 1]), 10, 30).tolist() == [10, 20, 30]


# ── bias field ──────────────────────────────────────────────────────────────────────────────────────────────


def biased_head(shape):
    """A head of two tissues under a gain that rises sixfold, with where its outer tissue is."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    head, inner = ball(shape, 0.45 * max(shape[:2])), ball(shape, 0.25 * max(shape[:2]))
    noise = np.random.default_rng(0).normal(0, 2, (2, *shape))
    clean = np.where(inner, 400, np.where(head, 800, 0))
    gain = np.exp(0.6 * x + 0.3 * y**2)
    return np.hypot(clean * gain + noise[0], noise[1]).astype(np.float32), head & ~inner


@pytest.mark.parametrize(("shape", "left"), [((28, 32, 24), 0.2), ((160, 152, 1), 0.65)])
def test_n4_flattens_a_known_gain(shape, left):
    volume, tissue = biased_head(shape)
    corrected = correct_bias_field(volume, foreground_mask(volume))
    original, corrected_value = (np.std(image[tissue]) / np.mean(image[tissue]) for image in (volume, corrected))
    assert corrected.shape == volume.shape
    assert corrected.dtype == np.float32
    assert original > 0.2
    assert corrected_value < left * original


def test_n4_gives_the_same_bits_whatever_the_number_of_threads():
    volume, _ = biased_head((16, 18, 14))
    foreground = foreground_mask(volume)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for count in (1, 3):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
            found.append(correct_bias_field(volume, foreground))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == count
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    assert np.array_equal(*found)
