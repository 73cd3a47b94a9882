"""HaarPSI: the published formula's values, and what raises or lowers them."""

import numpy as np
import pytest

from pipeline.metrics.haarpsi import haarpsi, mean_haarpsi


def rings(rows=40, columns=47) -> np.ndarray:
    """Rings about a point beside the middle, in [-1, 1]."""
    y, x = np.mgrid[:rows, :columns]
    return np.cos(np.hypot(y - 15.5, x - 20.25) / 2.5)


def test_values_are_those_of_another_implementation():
    """The expected values were computed with piq 0.8.0, in double precision."""
    image = rings()
    others = np.stack([0.8 * image, image**3, np.roll(image, 2, axis=0)])
    expected = [0.832888, 0.745992, 0.419135]
    np.testing.assert_allclose(haarpsi(others, np.stack([image] * 3)), expected, atol=2e-5)


def test_a_slice_is_most_like_itself_and_the_order_does_not_matter():
    image, other = rings()[None], 0.9 * rings()[None]
    assert haarpsi(image, image) == pytest.approx(1, abs=1e-6)
    assert haarpsi(image, other) == haarpsi(other, image) < 1


def test_edges_in_the_air_count_and_uniform_air_does_not():
    image = np.full((1, 64, 64), -1.0)
    image[:, 20:40, 20:40] = rings(20, 20)
    wider = np.pad(image, ((0, 0), (16, 16), (16, 16)), constant_values=-1)
    worse, wider_worse = 0.7 * image - 0.3, 0.7 * wider - 0.3
    np.testing.assert_allclose(haarpsi(worse, image), haarpsi(wider_worse, wider), rtol=1e-5)
    halo = image.copy()
    halo[:, 50:58] = -0.5
    assert haarpsi(halo, image) < 0.9


def test_slices_without_anything_have_no_value():
    empty = np.full((1, 32, 32), -1.0)
    assert np.isnan(haarpsi(empty, empty))


def test_the_mean_is_of_the_slices_that_show_foreground_and_have_a_value():
    real = np.stack([rings(), rings(), np.full((40, 47), -1.0), rings()])
    made = np.stack([0.8 * rings(), rings() ** 3, np.full((40, 47), -1.0), rings()])
    foreground = np.ones(real.shape, bool)
    foreground[3] = False
    assert mean_haarpsi(made, real, foreground) == pytest.approx((0.832888 + 0.745992) / 2, abs=2e-5)
    assert np.isnan(mean_haarpsi(made[2:3], real[2:3], foreground[2:3]))
    assert np.isnan(mean_haarpsi(made[:, :12], real[:, :12], foreground[:, :12]))
    assert np.isnan(mean_haarpsi(made, real, np.zeros(real.shape, bool)))
