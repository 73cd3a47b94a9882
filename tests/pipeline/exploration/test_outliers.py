from dataclasses import replace

import numpy as np
import pytest
from image_statistics_samples import case, histogram, statistics

from pipeline.exploration.image_statistics import grid_of
from pipeline.exploration.outliers import FEWEST, LIMIT, Quantity, departures, histogram_distances, robust_z

LEFT_ANTERIOR_SUPERIOR = np.diag([-1.0, 1.0, 1.0])


def grid(spacing_mm=(2.0, 2.0, 3.0), shape=(64, 64, 40), axes=LEFT_ANTERIOR_SUPERIOR, tilt_degrees=0.0):
    tilt = np.deg2rad(tilt_degrees)
    turned = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turned @ axes @ np.diag(spacing_mm)
    return grid_of(shape, affine)


def cohort(count=10, jitter=0.0, **changes):
    """Images alike but for some jitter, the last one with the changes."""
    random = np.random.default_rng(0)
    images = {
        case(number): statistics(
            grid=grid(2 * (1 + jitter * random.standard_normal(3)), tilt_degrees=4 + 100 * jitter * random.random()),
            high=950 * float(np.exp(3 * jitter * random.standard_normal())),
            head=0.3 + jitter * random.standard_normal(),
            zeros=0.02 + jitter * random.random(),
            histogram=histogram(jitter * random.standard_normal()),
        )
        for number in range(count)
    }
    last = case(count - 1)
    return {**images, last: replace(images[last], **changes)}


def reasons(images):
    return {name.subject: [departure.quantity for departure in entries] for name, entries in departures(images).items()}


def test_neither_noise_nor_images_that_are_all_alike_are_flagged():
    assert departures(cohort(60, jitter=0.01)) == departures(cohort()) == {}


@pytest.mark.parametrize(
    ("changes", "quantities"),
    [
        ({"grid": grid((2.0, 2.0, 4.98))}, ["spacing inferior–superior"]),
        ({"grid": grid((2.6, 2.0, 2.0))}, ["spacing right–left"]),
        ({"grid": grid((2.0, 2.0, 2.0), shape=(64, 40, 40))}, ["voxels posterior–anterior"]),
        ({"grid": grid((2.0, 2.0, 2.0), tilt_degrees=25)}, ["obliqueness"]),
        ({"low": 0.0, "high": 12.0}, ["intensity range of the head"]),
        ({"zeros": 0.7}, ["share of zeros"]),
        ({"head": 0.08}, ["share of head"]),
        ({"histogram": histogram(0.6)}, ["distance of the normalised histogram"]),
    ],
)
def test_what_departs_is_named_with_its_quantity(changes, quantities):
    assert reasons(cohort(12, jitter=0.005, **changes)) == {"s11": quantities}


def test_the_reason_gives_value_and_median():
    same = {case(number): statistics(grid=grid((1, 1, 1.25))) for number in range(8)}
    odd = {case(9): statistics(grid=grid((1, 1, 4.98)))}
    [[departure]] = departures(same | odd).values()
    factor = np.log(4.98 / 1.25) / (np.log(1.1) / LIMIT)
    assert departure.text == f"spacing inferior–superior 4.98 mm (median 1.25 mm, z +{factor:.1f})"
    assert departure.z == pytest.approx(factor)


def test_another_orientation_stands_out_where_nearly_all_agree():
    backwards = grid((2.0, 2.0, 3.0), axes=np.diag([1.0, 1.0, -1.0]))
    few = {case(number): statistics(grid=grid() if number else backwards) for number in range(8)}
    [[departure]] = departures(few).values()
    assert departure.text == "orientation RAI (7 of 8 are LAS; all are turned to RAS before they are cut)"
    half = {case(number): statistics(grid=grid() if number % 2 else backwards) for number in range(8)}
    assert departures(half) == {}


def test_an_image_turned_on_its_side_is_compared_along_the_body():
    sideways = np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]])  # PSR
    same = {case(number): statistics(grid=grid((1, 1, 1.5), shape=(64, 64, 40))) for number in range(8)}
    turned = {case(9): statistics(grid=grid((1, 1.5, 1), shape=(64, 40, 64), axes=sideways))}
    assert reasons(same | turned) == {"s9": ["orientation"]}


def test_too_few_images_are_not_judged():
    assert departures(cohort(FEWEST - 1, zeros=0.9)) == {}
    assert list(departures(cohort(FEWEST, zeros=0.9))) == [case(FEWEST - 1)]


def test_pictures_without_a_grid_are_judged_by_their_size():
    pictures = {case(number): statistics(grid=None, shape=(217, 181)) for number in range(6)}
    pictures[case(3)] = replace(pictures[case(3)], shape=(100, 181))
    assert reasons(pictures) == {"s3": ["width"]}


def test_the_score_is_the_modified_z_score_once_the_cohort_varies_more_than_matters():
    quantity = Quantity("q", 0.1)
    values = [1.0, 2.0, 3.0, 4.0, 100.0]  # median 3, absolute deviations 2 1 0 1 97, their median 1
    assert robust_z(values, quantity) == pytest.approx(np.array([-2, -1, 0, 1, 97]) / 1.4826)
    near, far = (robust_z([5.0] * 4 + [last], quantity) for last in (5.09, 5.11))
    assert np.abs(near).max() < LIMIT < far[4]


def test_ratios_are_compared_on_a_logarithmic_scale():
    quantity = Quantity("q", 2, ratio=True)
    scores = robust_z([100.0, 100.0, 100.0, 50.0, 200.0], quantity)
    assert scores[4] == pytest.approx(-scores[3]) and scores[4] == pytest.approx(LIMIT)


def test_the_histogram_distance_is_the_way_that_intensities_must_go():
    images = {case(number): statistics(histogram=histogram(0.0)) for number in range(6)}
    images[case(6)] = statistics(histogram=histogram(0.3))
    distances = histogram_distances(images)
    assert distances[case(0)] == 0
    assert distances[case(6)] == pytest.approx(0.3, abs=0.01)
