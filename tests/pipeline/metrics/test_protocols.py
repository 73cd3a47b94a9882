import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from pipeline.metrics.protocols import OWN, PUBLISHED, subject_means, summarise
from pipeline.metrics.similarity import mae, nmi, nrmse, psnr, slice_ratio, ssim
from pipeline.metrics.tissue_dice import interior, tissue_agreement


def head(slices=12, size=32, seed=0):
    """A textured ellipsoid in [-1, 1] on -1, its mask, and a noisy prediction of it."""
    generator = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (slices, size, size)), indexing="ij")
    foreground = x**2 + y**2 + z**2 < 1
    texture = ndimage.gaussian_filter(generator.standard_normal(foreground.shape), 1.5)
    real = np.where(foreground, np.clip(texture * 3, -0.95, 1), -1).astype(np.float32)
    noise = 0.2 * generator.standard_normal(real.shape)
    prediction = np.where(foreground, np.clip(real + noise, -1, 1), -1).astype(np.float32)
    return prediction, real, foreground


def score(protocol, *images):
    """The means of one subject's figures."""
    return subject_means(protocol.measure(*images))


STRUCTURE = {
    *("volume/foreground/nmi", "volume/foreground/slice_ratio", "volume/foreground/calibrated_psnr"),
    *("volume/interior/dice", "volume/image/haarpsi"),
    *(f"volume/interior/dice_{tissue}" for tissue in ("dark", "middle", "bright")),
}


def test_our_own_protocol_measures_four_metrics_in_two_units_and_two_regions_and_the_structure_of_volumes():
    scores = score(OWN, *head())
    metrics = ("mae", "nrmse", "psnr", "ssim")
    expected = {f"{u}/{r}/{m}" for u in ("volume", "slice") for r in ("image", "foreground") for m in metrics}
    assert set(scores) == expected | STRUCTURE
    assert all(math.isfinite(value) for value in scores.values())


def test_volume_figures_are_the_metrics_of_the_whole_stack_with_data_range_two():
    prediction, real, foreground = head()
    scores = score(OWN, prediction, real, foreground)
    for region, mask in (("image", None), ("foreground", foreground)):
        assert scores[f"volume/{region}/mae"] == pytest.approx(mae(prediction, real, mask))
        assert scores[f"volume/{region}/nrmse"] == pytest.approx(nrmse(prediction, real, mask))
        assert scores[f"volume/{region}/psnr"] == pytest.approx(psnr(prediction, real, 2, mask))
        assert scores[f"volume/{region}/ssim"] == pytest.approx(ssim(prediction, real, 2, mask))


def test_structure_is_measured_inside_the_real_foreground_and_tissue_in_its_interior():
    prediction, real, foreground = head()
    spacing = (3.0, 1.0, 1.0)
    scores = score(OWN, prediction, real, foreground, spacing)
    assert scores["volume/foreground/nmi"] == nmi(prediction, real, foreground)
    assert scores["volume/foreground/slice_ratio"] == slice_ratio(prediction, real, foreground)
    tissues = tissue_agreement(prediction, real, interior(foreground, spacing))
    assert {f"volume/interior/{name}": value for name, value in tissues.items()}.items() <= scores.items()
    assert scores["volume/interior/dice"] != score(OWN, prediction, real, foreground)["volume/interior/dice"]


def test_what_a_thin_stack_lacks_is_not_a_number():
    thin, single = score(OWN, *head(slices=5)), score(OWN, *(array[6:7] for array in head()))
    assert math.isnan(thin["volume/image/ssim"]) and math.isnan(thin["volume/foreground/ssim"])
    assert math.isfinite(thin["slice/foreground/ssim"])
    assert math.isnan(single["volume/foreground/slice_ratio"])
    assert single["volume/foreground/nmi"] > 1 and 0 < single["volume/interior/dice"] < 1


def test_slice_figures_are_the_mean_over_the_slices_that_have_foreground():
    prediction, real, foreground = head()
    assert not foreground[0].any()
    prediction[0] = 1  # however wrong, a slice without foreground is left out
    occupied = [index for index in range(len(real)) if foreground[index].any()]
    scores = score(OWN, prediction, real, foreground)
    of_slices = [psnr(prediction[i], real[i], 2, foreground[i]) for i in occupied]
    assert scores["slice/foreground/psnr"] == pytest.approx(np.mean(of_slices))
    whole_slices = [ssim(prediction[i], real[i], 2) for i in occupied]
    assert scores["slice/image/ssim"] == pytest.approx(np.mean(whole_slices))


def test_the_prediction_is_never_normalised_on_its_own_in_our_protocol():
    _, real, foreground = head()
    halved = (real + 1) / 2 - 1  # half the gain
    assert score(OWN, halved, real, foreground)["volume/foreground/psnr"] < 20
    for name in ("syndiff", "selfrdb"):  # these hide it
        hidden = score(PUBLISHED[name], halved, real, foreground)["slice/image/psnr"]
        assert hidden > 100


def test_syndiff_divides_each_slice_by_its_own_maximum_and_takes_the_predictions_peak():
    prediction, real, foreground = head()
    measured = PUBLISHED["syndiff"].measure(prediction, real, foreground)["slice/image/psnr"]
    for index in range(len(real)):
        guess, truth = (prediction[index] + 1) / 2, (real[index] + 1) / 2
        if truth.max() == 0:
            assert np.isnan(measured[index])
            continue
        guess, truth = guess / guess.max(), truth / truth.max()
        expected = 20 * np.log10(guess.max() / np.sqrt(np.mean((guess - truth) ** 2)))
        assert measured[index] == pytest.approx(expected, rel=1e-5)


def test_syndiff_crops_to_152_left_to_right_and_256_the_other_way():
    generator = np.random.default_rng(0)
    real = generator.uniform(-1, 1, (2, 300, 300))
    prediction = generator.uniform(-1, 1, (2, 300, 300))
    inside = np.s_[:, 74:226, 22:278]
    prediction[0, :74] = -1  # what is cropped away counts for nothing but the maximum
    values = PUBLISHED["syndiff"].measure(prediction, real, real > -2)["slice/image/psnr"]
    guess, truth = (prediction + 1) / 2, (real + 1) / 2
    guess = guess / guess.max(axis=(1, 2), keepdims=True)
    truth = truth / truth.max(axis=(1, 2), keepdims=True)
    error = np.mean((guess[inside] - truth[inside]) ** 2, axis=(1, 2))
    expected = 20 * np.log10(guess[inside].max(axis=(1, 2)) / np.sqrt(error))
    np.testing.assert_allclose(values, expected)


def test_selfrdb_divides_each_slice_by_its_own_mean_with_the_truths_maximum_as_range():
    prediction, real, foreground = head()
    prediction = np.clip(prediction + 0.1, -1, 1)  # a background that is wrong
    measured = PUBLISHED["selfrdb"].measure(prediction, real, foreground)
    for region in ("image", "foreground"):
        mask = foreground[6] if region == "foreground" else 1
        guess, truth = (prediction[6] + 1) / 2 * mask, (real[6] + 1) / 2 * mask
        guess, truth = guess / guess.mean(), truth / truth.mean()
        expected = 10 * np.log10(truth.max() ** 2 / np.mean((guess - truth) ** 2))
        assert measured[f"slice/{region}/psnr"][6] == pytest.approx(expected, rel=1e-5)
        similarity = structural_similarity(truth, guess, data_range=truth.max())
        assert measured[f"slice/{region}/ssim"][6] == pytest.approx(similarity, rel=1e-4)
    assert np.isnan(measured["slice/image/psnr"][0])  # an empty truth cannot be divided by its mean


@pytest.mark.parametrize("name", ["syndiff", "selfrdb", "reggan"])
def test_the_truth_alone_decides_which_slices_are_measured(name):
    copy, real, foreground = head()
    copy[0, 10, 10] = 0.5  # where the truth is empty
    model = copy.copy()
    model[0], model[6] = -1, -1  # what a source slice without content becomes
    of_copy, of_model = (PUBLISHED[name].measure(prediction, real, foreground) for prediction in (copy, model))
    for key, values in of_model.items():
        np.testing.assert_array_equal(np.isnan(values), np.isnan(of_copy[key]))
        assert np.isfinite(values[6]) and values[6] != of_copy[key][6]


@pytest.mark.parametrize("name", ["selfrdb", "reggan"])
def test_slices_too_small_for_a_window_have_no_ssim_and_the_other_figures(name):
    measured = PUBLISHED[name].measure(*(array[:, :20, 7:12] for array in head()))
    assert np.isnan(measured.pop("slice/image/ssim")).all() and measured


def test_an_empty_prediction_is_scored_as_zeros():
    _, real, foreground = head()
    truth = (real[6] + 1) / 2
    nothing = np.full_like(real, -1)
    by_maximum = PUBLISHED["syndiff"].measure(nothing, real, foreground)["slice/image/psnr"][6]
    assert by_maximum == pytest.approx(-10 * np.log10(np.mean((truth / truth.max()) ** 2)), rel=1e-5)
    by_mean = PUBLISHED["selfrdb"].measure(nothing, real, foreground)["slice/image/psnr"][6]
    assert by_mean == pytest.approx(10 * np.log10(truth.max() ** 2 / np.mean(truth**2)), rel=1e-5)


def test_reggan_measures_where_the_truth_is_not_background():
    prediction, real, foreground = head()
    measured = PUBLISHED["reggan"].measure(prediction, real, np.ones_like(foreground))
    inside = real[6] != -1
    difference = (prediction[6][inside] - real[6][inside]) / 2
    assert measured["slice/foreground/mae"][6] == pytest.approx(np.abs(difference).mean(), rel=1e-5)
    assert measured["slice/foreground/psnr"][6] == pytest.approx(-10 * np.log10(np.mean(difference**2)), rel=1e-5)
    whole = structural_similarity(real[6], prediction[6], data_range=2)
    assert measured["slice/image/ssim"][6] == pytest.approx(whole, rel=1e-5)
    assert np.isnan(measured["slice/foreground/psnr"][0])
    perfect = PUBLISHED["reggan"].measure(real, real, foreground)
    assert perfect["slice/foreground/psnr"][6] == perfect["slice/rows/psnr"][6] == 100


def test_reggans_row_figure_is_what_chained_indexing_selects():
    prediction, real, foreground = head()
    rows, columns = np.where(real[6] != -1)
    chained = (prediction[6][rows][columns] + 1) / 2 - (real[6][rows][columns] + 1) / 2
    measured = PUBLISHED["reggan"].measure(prediction, real, foreground)["slice/rows/psnr"][6]
    assert measured == pytest.approx(-10 * np.log10(np.mean(chained**2)), rel=1e-5)
    assert measured != pytest.approx(PUBLISHED["reggan"].measure(*head())["slice/foreground/psnr"][6], rel=1e-2)


def test_protocols_differ_in_what_mean_and_deviation_run_over():
    few, many = {"k": np.array([1.0])}, {"k": np.array([2.0, 4.0, np.nan])}
    assert OWN.summarise([few, many])["k"] == pytest.approx((2, math.sqrt(2), 2))  # subjects' means 1 and 3, sample SD
    assert PUBLISHED["selfrdb"].summarise([few, many])["k"] == pytest.approx((2, 1, 2))  # the same, population SD
    over_slices = (7 / 3, np.std([1, 2, 4], ddof=1), 3)
    assert PUBLISHED["syndiff"].summarise([few, many])["k"] == pytest.approx(over_slices)
    assert PUBLISHED["reggan"].summarise([few, many])["k"] == pytest.approx(over_slices)


@pytest.mark.parametrize(
    ("values", "ddof", "mean", "deviation", "count"),
    [
        ([1.0, 3.0, 8.0], 1, 4, math.sqrt(13), 3),
        ([5.0, math.nan, 6.0], 1, 5.5, math.sqrt(0.5), 2),
        ([2.0], 0, 2, math.nan, 1),
        ([math.inf, 3.0], 1, math.inf, math.nan, 2),
    ],
)
def test_the_summary_leaves_nan_out_and_has_no_deviation_where_there_is_none(values, ddof, mean, deviation, count):
    summary = summarise([{"a": value} for value in values], ddof)["a"]
    assert summary == pytest.approx((mean, deviation, count), nan_ok=True)
