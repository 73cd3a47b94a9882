"""Shifts of a synthetic head's slices that are known to a tenth of a pixel, for it is sampled there anew."""

import numpy as np
import pytest
from head_scans import INTENSITIES, tissue_at
from scipy.ndimage import gaussian_filter

from pipeline.metrics.shift import shared_shift, slice_shift

PIXEL_MM, FINE = 2.5, 10  # a pixel, and how many samples it is averaged from along each axis
SHAPE, HEIGHTS_MM = (72, 88), (-30, -12, 4, 18, 33)


def fine_tissue(height_mm):
    """Labels of a slice ten times as fine as its pixels, five pixels wider on each side than `SHAPE`."""
    rows, columns = ((np.arange((size + 10) * FINE) + 0.5) / FINE - (size + 10) / 2 for size in SHAPE)
    grid = np.stack(np.meshgrid(rows * PIXEL_MM, columns * PIXEL_MM, [height_mm], indexing="ij"), axis=-1)
    return tissue_at(grid)[..., 0]


TISSUE = [fine_tissue(height) for height in HEIGHTS_MM]


def pixels(fine, shift=(0, 0)):
    """A fine picture moved along its axes, in tenths of a pixel, and averaged over pixels."""
    first, second = (5 * FINE - round(step * FINE) for step in shift)
    cut = fine[first : first + SHAPE[0] * FINE, second : second + SHAPE[1] * FINE]
    return cut.reshape(SHAPE[0], FINE, SHAPE[1], FINE).mean(axis=(1, 3))


def contrast(name, tissue, shift=(0, 0)):
    values = np.array(INTENSITIES[name], float)
    return pixels(values[tissue], shift) / values.max() * 2 - 1


def noisy(image, scale=0.05):
    return image + np.random.default_rng(3).normal(0, scale, image.shape)


TRANSLATIONS = {  # from a source, its tissue and a shift
    "the other contrast": lambda source, tissue, shift: contrast("T2" if source == "T1" else "T1", tissue, shift),
    "blurred and noisy": lambda source, tissue, shift: noisy(
        gaussian_filter(contrast("T2" if source == "T1" else "T1", tissue, shift), 1)
    ),
    "inverted and blurred": lambda source, tissue, shift: -gaussian_filter(contrast(source, tissue, shift), 1),
    "a table of intensities": lambda source, tissue, shift: np.cos(3 * contrast(source, tissue, shift)),
}
KNOWN = [(0, 0), (0, -0.5), (0.7, -0.7), (2.4, -3.6)]


@pytest.mark.parametrize("source", ["T1", "T2"])
@pytest.mark.parametrize("kind", TRANSLATIONS)
def test_known_shifts_are_measured_to_a_tenth_of_a_pixel_in_each_slice_and_to_less_where_there_is_none(source, kind):
    for shift in KNOWN:
        measured = [
            slice_shift(contrast(source, tissue), TRANSLATIONS[kind](source, tissue, shift), pixels(tissue > 0) > 0.5)
            for tissue in TISSUE
        ]
        np.testing.assert_allclose(np.median(measured, axis=0), shift, atol=0.1)
        np.testing.assert_allclose(measured, np.broadcast_to(shift, (5, 2)), atol=0.2)
        if not any(shift):
            assert np.hypot(*shared_shift(np.array(measured))) < 0.1


def test_the_sign_is_that_of_the_axis():
    image = np.full((40, 48), -1.0)
    image[12:25, 15:33], moved = 0.5, np.full((40, 48), -1.0)
    moved[14:27, 12:30] = -0.3
    np.testing.assert_allclose(slice_shift(image, moved, image > 0), [2, -3], atol=0.05)


def test_what_has_no_edges_has_no_shift():
    tissue = TISSUE[0]
    source, head = contrast("T1", tissue), pixels(tissue > 0) > 0.5
    assert slice_shift(source, np.full(SHAPE, 0.3), head) is None
    assert slice_shift(np.zeros(SHAPE), source, head) is None
    assert slice_shift(source, source, np.zeros(SHAPE, bool)) is None


def test_the_shared_shift_is_the_median_of_each_axis():
    shifts = np.array([(0.5, -0.2), (0.6, -0.2), (0.4, -0.1), (9.0, -0.3), (0.5, -7.0)])  # two slices astray
    assert shared_shift(shifts).tolist() == [0.5, -0.2]


def test_slices_that_disagree_too_much_to_tell_have_no_shift_in_common():
    around = 0.6 * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
    shifts = np.concatenate([around[1:], around[1:], around[:2]])  # of ten, 0.6 pixels is the median distance
    twice_the_error = 2 * 1.25 * 1.48 * 0.6 / np.sqrt(10)  # 0.70 pixels
    assert shared_shift(shifts + np.array([0.8, 0])).tolist() == pytest.approx([0.8, 0], abs=1e-12)
    assert np.isnan(shared_shift(shifts + np.array([twice_the_error - 0.01, 0]))).all()
    a_third = shared_shift((shifts + np.array([0.3, 0])) / 3)  # known to 0.23 pixels
    assert a_third.tolist() == pytest.approx([0.1, 0], abs=1e-12)
