import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from pipeline.metrics.similarity import (
    calibrated_psnr,
    intensity_distance,
    mae,
    nmi,
    nrmse,
    psnr,
    slice_ratio,
    ssim,
    ssim_map,
)


@pytest.fixture
def two_slices():
    generator = np.random.default_rng(0)
    real = ndimage.gaussian_filter(generator.standard_normal((24, 20)), 2) * 3
    return np.clip(real + 0.2 * generator.standard_normal(real.shape), -1, 1), np.clip(real, -1, 1)


def test_errors_of_a_hand_made_image():
    real = np.array([[0.0, 1.0], [0.5, -1.0]])
    prediction = np.array([[0.5, 1.0], [0.5, 0.0]])
    assert mae(prediction, real) == pytest.approx(1.5 / 4)
    assert nrmse(prediction, real) == pytest.approx(np.sqrt(1.25 / 4) / 2)  # the real image spans -1 to 1
    assert psnr(prediction, real, data_range=2) == pytest.approx(10 * np.log10(4 / (1.25 / 4)))


def test_a_mask_leaves_everything_else_out():
    real = np.array([[0.0, 1.0], [0.5, -1.0]])
    prediction = np.array([[0.5, 1.0], [9.0, 9.0]])
    mask = np.array([[True, True], [False, False]])
    assert mae(prediction, real, mask) == pytest.approx(0.25)
    assert nrmse(prediction, real, mask) == pytest.approx(np.sqrt(0.125))
    assert psnr(prediction, real, 2, mask) == pytest.approx(10 * np.log10(4 / 0.125))


def test_identical_images_have_infinite_psnr_and_ssim_one(two_slices):
    _, real = two_slices
    assert psnr(real, real, 2) == float("inf")
    assert ssim(real, real, 2) == pytest.approx(1)
    assert mae(real, real) == nrmse(real, real) == 0
    assert np.isnan(nrmse(np.ones((3, 3)), np.zeros((3, 3))))  # the real voxels are constant


def test_calibrated_psnr_is_that_of_the_best_line_through_the_voxels_of_the_mask(two_slices):
    prediction, real = two_slices
    mask = np.zeros(real.shape, bool)
    mask[3:-2, 4:] = True
    gain, offset = np.polyfit(prediction[mask], real[mask], 1)
    expected = psnr(gain * prediction + offset, real, 2, mask)
    assert calibrated_psnr(prediction, real, 2, mask) == pytest.approx(expected)
    assert calibrated_psnr(0.3 * prediction - 0.5, real, 2, mask) == pytest.approx(expected)
    assert expected > psnr(prediction, real, 2, mask)


def test_calibrated_psnr_of_a_constant_prediction_is_that_of_the_real_mean():
    real = np.array([[0.0, 1.0], [0.5, -1.0]])
    assert calibrated_psnr(np.full((2, 2), 0.7), real, 2) == pytest.approx(10 * np.log10(4 / real.var()))
    assert calibrated_psnr(np.zeros((2, 2)), np.full((2, 2), 0.5), 2) == float("inf")
    assert calibrated_psnr(1 - 0.5 * real, real, 2) > 100  # a line that falls


@pytest.mark.parametrize("shape", [(11, 30), (40, 33), (12, 11, 13), (18, 20, 16)])
def test_ssim_is_scikit_images(shape):
    random = np.random.default_rng(0)
    real = np.clip(ndimage.gaussian_filter(random.standard_normal(shape), 2) * 4 - 0.5, -1, 1)  # with flat air
    prediction = np.clip(real + 0.1 * random.standard_normal(shape), -1, 1)
    for kind, tolerance in ((np.float64, 1e-12), (np.float32, 1e-4)):  # float32 loses digits, there as here
        a, b = prediction.astype(kind), real.astype(kind)
        mean, plainly = structural_similarity(
            b, a, data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )
        values = ssim_map(a, b, 2)
        assert values.dtype == kind
        np.testing.assert_allclose(values, plainly, atol=tolerance, rtol=0)
        assert ssim(a, b, 2) == pytest.approx(mean, abs=1e-6)
        mask = random.random(shape) < 0.1
        assert ssim(a, b, 2, mask) == pytest.approx(plainly[mask].mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("measure", "shapes", "message"),
    [
        (mae, [(16, 16), (16, 1)], r"\(16, 16\) and the real image \(16, 1\)"),
        (lambda *images: ssim(*images, 2), [(16, 16), (16, 1)], r"\(16, 16\) and the real image \(16, 1\)"),
        (mae, [(16, 16)] * 3, "the mask is empty"),
        (mae, [(16, 16), (16, 16), (16,)], r"the mask has shape \(16,\) and the image \(16, 16\)"),
        (lambda *images: ssim(*images, 2), [(10, 32, 32)] * 2, r"at least 11 voxels along each axis .* 10x32x32"),
    ],
)
def test_images_that_cannot_be_compared_are_a_clear_error(measure, shapes, message):
    with pytest.raises(ValueError, match=message):
        measure(*(np.zeros(shape, bool if number == 2 else float) for number, shape in enumerate(shapes)))


def test_nmi_is_the_entropies_over_the_joint_entropy():
    def entropy(*sixteenths):
        shares = np.array(sixteenths) / 16
        return -np.sum(shares * np.log(shares))

    prediction = np.array([1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1])
    expected = (entropy(8, 8) + entropy(6, 10)) / entropy(2, 6, 4, 4)
    assert nmi(prediction, np.repeat([0.0, 1.0], 8)) == pytest.approx(expected)


def test_nmi_is_two_for_a_recolouring_within_the_mask_and_one_for_what_says_nothing(two_slices):
    _, real = two_slices
    mask = np.zeros(real.shape, bool)
    mask[:12] = True
    assert nmi(np.where(mask, 3 - 5 * real, 0.1), real, mask) == pytest.approx(2)
    assert nmi(np.zeros_like(real), real) == pytest.approx(1)


def test_what_is_constant_or_no_number_has_neither_nmi_nor_psnr(two_slices):
    _, real = two_slices
    broken = np.where(real == real.max(), np.nan, real)
    assert np.isnan([nmi(real, np.zeros_like(real)), nmi(broken, real)]).all()
    assert np.isnan([psnr(real, broken, 2), calibrated_psnr(real, broken, 2)]).all()


def test_the_slice_ratio_of_a_hand_made_stack():
    real, prediction = np.zeros((3, 1, 2)), np.zeros((3, 1, 2))
    real[:, 0, 0] = [0, 1, 3]  # differences 1 and 2
    prediction[:, 0, 0] = [0, -2, 2]  # 2 and 4
    real[:, 0, 1] = prediction[:, 0, 1] = [0, 9, 0]
    mask = np.array([True, False]) & np.ones((3, 1, 2), bool)
    assert slice_ratio(prediction, real, mask) == pytest.approx(2)
    mask[2] = False  # its pair needs both voxels
    prediction[1, 0, 0] = -5
    assert slice_ratio(prediction, real, mask) == pytest.approx(5)


@pytest.fixture(scope="module")
def stack():
    real = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((20, 24, 24)), 2) * 5
    mask = np.zeros(real.shape, bool)
    mask[2:-2, 3:-3, 4:-4] = True
    return real, mask


def test_slices_that_jump_raise_the_slice_ratio_and_smoothing_lowers_it(stack):
    real, mask = stack
    generator = np.random.default_rng(1)
    noise, jitter = generator.standard_normal(real.shape), generator.standard_normal((len(real), 1, 1))
    for disturbance in (noise, jitter):  # voxel by voxel, or each slice's brightness
        ratios = [slice_ratio(real + amount * disturbance, real, mask) for amount in (0, 0.05, 0.2, 0.5)]
        assert ratios[0] == 1 and (np.diff(ratios) > 0.02).all()
    assert slice_ratio(ndimage.gaussian_filter1d(real, 2, axis=0), real, mask) < 0.8
    assert slice_ratio(np.roll(real, 2, axis=1) + 3, real, mask) == pytest.approx(1, abs=0.1)  # no matter what it shows


def test_a_single_slice_or_one_that_never_changes_has_no_slice_ratio(stack):
    real, mask = stack
    assert np.isnan(slice_ratio(real[:1], real[:1], mask[:1]))
    assert np.isnan(slice_ratio(real, np.zeros_like(real), mask))
    assert np.isnan(slice_ratio(real, real, np.arange(20)[:, None, None] % 2 == np.zeros_like(mask)))
    with pytest.raises(ValueError, match="they must match"):
        slice_ratio(real, real[1:], mask)


def test_the_intensity_distance_is_how_far_the_histogram_moves():
    values = np.linspace(-1, 0, 50)
    assert intensity_distance(values, values[::-1].reshape(5, 10) + 0.3) == pytest.approx(0.3)
    assert intensity_distance(np.array([0.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(0)
