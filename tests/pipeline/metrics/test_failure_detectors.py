"""Each detector on a case made to trip it and on those that must not; heads are disks with a ring for scalp."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import shift
from scipy.stats import rankdata

from pipeline.metrics.failure_detectors import (
    LAYERS,
    Cohort,
    Translated,
    depth_layers,
    depth_profile,
    measure,
    spread,
    unturned_contrast,
)
from pipeline.training.failure_checks import FAILURE_CHECKS, check_failures

SIZE, SLICES = 48, 10
RISING, FALLING = (-0.4, 0.6), (0.5, -0.5)  # intensities under the scalp and in the centre


def heads(seed=0):
    """(K, 48, 48) disks of several radii and places."""
    random = np.random.default_rng(seed)
    rows, columns = np.ogrid[:SIZE, :SIZE]
    disks = random.uniform((21, 21, 14), (26, 26, 19), (SLICES, 3))
    return np.stack([(rows - row) ** 2 + (columns - column) ** 2 < radius**2 for row, column, radius in disks])


def contrast(head, between, seed=0):
    """Slices of a contrast: from one intensity to another with depth, bright scalp, an anatomy of its own each."""
    random = np.random.default_rng(seed)
    anatomy = np.repeat(np.repeat(random.uniform(-0.25, 0.25, (len(head), SIZE // 4, SIZE // 4)), 4, 1), 4, 2)
    layers = depth_layers(head)
    inside = np.interp(layers, (0, LAYERS - 1), between) + anatomy * np.sign(between[1] - between[0])
    return np.where(layers >= 0, inside, np.where(head, 0.8, -1)).astype(np.float32)


HEAD = heads()
SOURCE, TARGET = contrast(HEAD, FALLING), contrast(HEAD, RISING)


def cohort(slices, head=HEAD):
    profile = depth_profile([(slices, depth_layers(head))])
    return Cohort(profile, spread([(slices, head)]), np.quantile(slices[head], np.linspace(0, 1, 500)))


COHORTS = cohort(SOURCE), cohort(TARGET)


def scan(translation, source=SOURCE, head=HEAD, pixel_mm=(2.0, 2.0)):
    return Translated(source, np.asarray(translation, np.float32), head, depth_layers(head), pixel_mm)


def triggered(translation, cohorts=COHORTS, **options):
    """The names of the detectors that trip."""
    values = measure([scan(translation, **options)], *cohorts)
    metrics = {f"detectors/a_to_b/{name}": value for name, value in values.items()}
    return {verdict.name for verdict in check_failures(metrics) if verdict.triggered}


def value(name, translation, cohorts=COHORTS, **options):
    return measure([scan(translation, **options)], *cohorts).get(name)


# ── what must not trip any ──────────────────────────────────────────────────────────────────────────────────


def test_the_true_target_trips_nothing_nor_does_a_noisy_one():
    assert triggered(TARGET + np.random.default_rng(5).normal(0, 0.2, TARGET.shape)) == set()
    assert triggered(TARGET) == set() and value("mode_collapse", TARGET) == pytest.approx(1)
    components = {f"shift_{axis}_{unit}" for axis in "xy" for unit in ("px", "mm")} | {"spatial_shift_mm"}
    of_more_than_this = {"spatial_shift", "opposed_shifts", "growing_shift", "unturned_contrast", "hidden_information"}
    of_more_than_this |= {"blind_discriminator", "unerring_discriminator"}
    assert measure([scan(TARGET)], *COHORTS).keys() == FAILURE_CHECKS.keys() - of_more_than_this | components


# ── contrast inversion ──────────────────────────────────────────────────────────────────────────────────────


def test_layers_run_from_under_the_scalp_to_the_centre():
    head = np.zeros((1, 41, 41), bool)
    rows, columns = np.ogrid[:41, :41]
    head[0] = (rows - 20) ** 2 + (columns - 20) ** 2 < 16**2
    line = depth_layers(head)[0, 20]
    assert line[20] == LAYERS - 1
    assert (line[:9] == -1).all()  # air up to 4, then a quarter of the 16 pixels to the centre
    assert (np.diff(line[9:21]) >= 0).all() and line[9] == 0
    np.testing.assert_array_equal(line, line[::-1])


def test_the_profile_is_the_mean_of_each_layer_over_all_slices():
    layers = np.array([[[0, 1, -1]], [[1, 1, -1]]])
    profile = depth_profile([(np.array([[[2.0, 3.0, 9.0]], [[5.0, 7.0, 9.0]]]), layers)])
    assert profile[:2].tolist() == [2, 5]
    assert np.isnan(profile[2:]).all()


def test_an_inverted_target_trips():
    assert triggered(-TARGET) == {"contrast_inversion", "brightness_offset"}
    assert value("contrast_inversion", -TARGET) == pytest.approx(-value("contrast_inversion", TARGET))


def test_an_inverted_inside_trips_though_the_scalp_and_the_histogram_are_right():
    inside = depth_layers(HEAD) >= 0
    turned = np.where(inside, 2 * TARGET[inside].mean() - TARGET, TARGET)
    assert triggered(turned) == {"contrast_inversion"}


MATCHED = SOURCE.copy()  # the source with the target's histogram
MATCHED[HEAD] = np.sort(TARGET[HEAD])[np.argsort(np.argsort(SOURCE[HEAD]))]


def test_a_source_with_the_targets_histogram_trips_where_the_contrasts_are_opposed():
    assert triggered(MATCHED) == {"contrast_inversion"}


def test_a_contrast_without_a_profile_is_not_judged():
    level = Cohort(np.full(LAYERS, 0.1), 0.5, COHORTS[1].quantiles)
    assert value("contrast_inversion", -TARGET, (COHORTS[0], level)) is None
    assert value("contrast_inversion", np.where(HEAD, 0.2, -1)) is None
    assert value("contrast_inversion", np.where(HEAD, -0.1 * TARGET, -1)) is None


# ── unturned contrast ───────────────────────────────────────────────────────────────────────────────────────


def with_real(translation, real=TARGET):
    return replace(scan(translation), real=real)


def test_a_contrast_that_keeps_its_sources_order_is_unturned_whatever_its_histogram():
    expected = 1 - np.corrcoef(*(rankdata(image[HEAD]) for image in (SOURCE, TARGET)))[0, 1]
    for translation in (SOURCE, MATCHED):
        assert unturned_contrast([with_real(translation)]) == pytest.approx(expected, abs=0.01)  # ties keep no order
    noisy = TARGET + np.random.default_rng(1).normal(0, 0.2, TARGET.shape).astype(np.float32)
    assert abs(unturned_contrast([with_real(TARGET)])) < 1e-9 and abs(unturned_contrast([with_real(noisy)])) < 0.2
    assert np.isnan(unturned_contrast([scan(SOURCE)]))  # without a real target, or its contrast
    assert np.isnan(unturned_contrast([with_real(SOURCE, np.full_like(SOURCE, 0.3))]))


# ── gain ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("factor", "offset", "names"),
    [
        (1, 0, set()), (0.8, 0.1, set()), (1.3, -0.1, set()),
        (0.6, 0, {"gain"}), (1.5, 0, {"gain"}), (1, 0.3, {"brightness_offset"}), (1, -0.3, {"brightness_offset"}),
    ],
)  # fmt: skip
def test_gain_and_offset_are_measured_and_trip_on_both_sides(factor, offset, names):
    mean = TARGET[HEAD].mean()
    changed = np.where(HEAD, factor * (TARGET - mean) + mean + offset, TARGET)
    assert value("gain", changed) == pytest.approx(factor, rel=0.02)
    assert value("brightness_offset", changed) == pytest.approx(offset, abs=0.01)
    assert triggered(changed) & {"gain", "brightness_offset"} == names


@pytest.mark.parametrize(("value", "limit", "trips"), [(0.5, 0.7, True), (1.0, 1.4, False), (2.0, 1.4, True)])
def test_a_limit_is_named_on_the_side_that_was_passed(value, limit, trips):
    (result,) = check_failures({"detectors/a_to_b/gain": value})
    assert (result.threshold, result.triggered) == (limit, trips)


def test_a_target_without_contrast_has_no_gain():
    flat = Cohort(COHORTS[1].profile, 0.5, np.full(100, 0.2))
    assert value("gain", TARGET, (COHORTS[0], flat)) is None
    assert value("brightness_offset", TARGET, (COHORTS[0], flat)) == pytest.approx(TARGET[HEAD].mean() - 0.2, abs=0.01)


# ── spatial shift ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pixels", [(2, 0), (0, -3)])
def test_a_shifted_target_trips_and_its_length_is_in_millimetres(pixels):
    shifted = np.roll(TARGET, pixels, axis=(1, 2))
    assert triggered(shifted) == {"spatial_shift"}
    assert value("spatial_shift_mm", shifted) == pytest.approx(2 * np.hypot(*pixels), abs=0.3)


def test_pixels_that_are_not_square_are_counted_along_their_axis():
    values = measure([scan(np.roll(TARGET, 2, axis=2), pixel_mm=(5.0, 0.5))], *COHORTS)
    expected = {"spatial_shift_mm": 1.0, "shift_y_px": 2.0, "shift_y_mm": 1.0, "shift_x_mm": 0}
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=0.1)


def test_more_than_half_a_pixel_trips_and_less_does_not():
    for pixels, trips in ((0.35, False), (0.65, True)):
        shifted = np.stack([shift(image, (pixels, 0), order=1, mode="nearest") for image in TARGET])
        assert ("spatial_shift" in triggered(shifted)) is trips
        assert value("shift_x_px", shifted) == pytest.approx(pixels, abs=0.1)


def test_slices_shifted_each_its_own_way_have_no_shift_in_common():
    offsets = [(8, 0), (-8, 0), (0, 8), (0, -8), (6, 6)] * 2
    shifted = np.stack([np.roll(image, offset, axis=(0, 1)) for image, offset in zip(TARGET, offsets, strict=True)])
    assert value("spatial_shift_mm", shifted) is None


# ── identity collapse ───────────────────────────────────────────────────────────────────────────────────────


def test_a_copy_trips_with_a_little_noise_too():
    assert value("identity_collapse", SOURCE) == 0 and "identity_collapse" in triggered(SOURCE)
    assert "identity_collapse" in triggered(SOURCE + np.random.default_rng(0).normal(0, 0.03, SOURCE.shape))


def test_the_value_is_the_change_over_the_least_that_would_do():
    quantiles = np.linspace(-0.5, 0.5, 100)
    cohorts = [Cohort(np.zeros(LAYERS), 0.3, quantiles), Cohort(np.zeros(LAYERS), 0.3, quantiles + 0.1)]  # 0.1 apart
    assert value("identity_collapse", SOURCE + 0.04, cohorts) == pytest.approx(0.4, rel=1e-3)
    cohorts[1] = Cohort(np.zeros(LAYERS), 0.3, quantiles + 0.8)  # further than half an SD
    expected = 0.04 / (np.std(SOURCE[HEAD]) / 2)
    assert value("identity_collapse", SOURCE + 0.04, cohorts) == pytest.approx(expected, rel=1e-3)


def test_a_copy_is_not_judged_where_the_contrasts_are_alike():
    nearly = Cohort(COHORTS[0].profile, COHORTS[0].spread, COHORTS[0].quantiles + 0.04)
    for other in (COHORTS[0], nearly):
        assert value("identity_collapse", SOURCE, (COHORTS[0], other)) is None
        assert triggered(SOURCE, (COHORTS[0], other)) == set()


# ── mode collapse ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("picture", ["a constant", "one slice", "their mean"])
def test_one_picture_for_all_sources_trips(picture):
    image = {"a constant": np.full((SIZE, SIZE), 0.1), "one slice": TARGET[3], "their mean": TARGET.mean(0)}[picture]
    same = np.repeat(image[None], SLICES, axis=0)
    assert "mode_collapse" in triggered(same)
    assert value("mode_collapse", same) == pytest.approx(0, abs=1e-6)


def test_sources_that_are_alike_may_have_translations_that_are():
    source, target, head = (np.repeat(stack[:1], SLICES, axis=0) for stack in (SOURCE, TARGET, HEAD))
    small = np.random.default_rng(0).normal(0, 0.03, source.shape).astype(np.float32)
    assert "mode_collapse" not in triggered(target + small, source=source + small, head=head)
    assert value("mode_collapse", target, source=source, head=head) is None


def test_the_spread_is_the_standard_deviation_at_a_place():
    values = np.array([1.0, 2.0, 6.0])  # their SD is the root of 7
    stacks = [
        (np.full((1, 4, 4), value), np.ones((1, 4, 4), bool)) if value < 6
        else (np.full((1, 6, 8), value), np.ones((1, 6, 8), bool))  # laid centre on centre
        for value in values
    ]  # fmt: skip
    assert spread(stacks) == pytest.approx(np.sqrt(7))
    assert np.isnan(spread(stacks[:1]))
