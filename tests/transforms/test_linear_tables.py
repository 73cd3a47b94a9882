import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from transforms.linear_tables import entry_weights, roughness


@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 4, 2)])
def test_weights_times_a_table_are_its_values_between_the_entries(shape):
    random = np.random.default_rng(0)
    table = random.normal(size=shape)
    coordinates = [random.uniform(0, levels - 1, 50) for levels in shape]
    for axis, levels in zip(coordinates, shape, strict=True):
        axis[:2] = 0, levels - 1
    expected = map_coordinates(table, np.stack(coordinates), order=1)
    np.testing.assert_allclose(entry_weights(coordinates, shape) @ table.ravel(), expected, atol=1e-12)


def test_the_roughness_sums_squared_second_differences_along_every_axis():
    table = np.random.default_rng(0).normal(size=(5, 4, 3))
    expected = sum((np.diff(table, 2, axis=axis) ** 2).sum() for axis in range(3))
    assert table.ravel() @ roughness(table.shape) @ table.ravel() == pytest.approx(expected)
    plane = np.add.outer(np.arange(5), 2 * np.arange(4)).ravel()
    assert plane @ roughness((5, 4)) @ plane == pytest.approx(0)
