import numpy as np
import pytest
import torch
from torch import nn

from pipeline.inference.slice_translator import translate_slices


class Neighbour(nn.Module):
    """Returns one of the channels: a neighbour some steps below the slice (-1, …) or above it, or the slice (0)."""

    def __init__(self, step, neighbours=1):
        super().__init__()
        self.neighbours, self.channel, self.shapes = neighbours, neighbours + step, []

    def forward(self, image):
        self.shapes.append(tuple(image.shape))
        return image[:, self.channel : self.channel + 1]


def translated(slices, network, batch_size=2, occupied=None, slice_mm=1.0):
    occupied = np.ones(len(slices), bool) if occupied is None else np.array(occupied)
    options = {"device": torch.device("cpu"), "batch_size": batch_size, "precision": "float32", "slice_mm": slice_mm}
    return translate_slices(slices, network, occupied, **options, name="a scan")


def numbered(count):
    """Slices that hold their numbers."""
    return np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None] / 10, (count, 4, 6))


@pytest.mark.parametrize("batch_size", [1, 2, 9])
@pytest.mark.parametrize(
    ("step", "neighbours", "numbers"),
    [(-1, 1, [0, 0, 1, 2, 3]), (0, 1, [0, 1, 2, 3, 4]), (1, 1, [1, 2, 3, 4, 4]), (-2, 2, [0, 0, 0, 1, 2])],
)
def test_a_slice_goes_with_its_neighbours_in_the_volume(step, neighbours, numbers, batch_size):
    out = translated(numbered(5), Neighbour(step, neighbours), batch_size)
    assert out.shape == (5, 4, 6)
    assert (10 * out[:, 0, 0]).round().tolist() == numbers


def test_neighbours_at_a_distance_are_counted_in_the_volumes_own_slices():
    network = Neighbour(2, 0)  # of three channels the last
    network.neighbour_mm = (6.0,)
    for slice_mm, numbers in ((3.0, [2, 3, 4, 4, 4]), (6.0, [1, 2, 3, 4, 4]), (20.0, [1, 2, 3, 4, 4])):
        out = translated(numbered(5), network, slice_mm=slice_mm)
        assert (10 * out[:, 0, 0]).round().tolist() == numbers


def test_slices_of_air_are_neighbours_but_are_not_translated():
    out = translated(numbered(5), Neighbour(-1), occupied=[False, True, False, True, True])
    assert (10 * out[:, 0, 0]).round().tolist() == [-10, 0, -10, 2, 3]


def test_what_comes_with_its_neighbours_goes_as_it_is():
    stacks = np.random.default_rng(0).uniform(-1, 1, (3, 3, 4, 6)).astype(np.float32)
    network = Neighbour(1)
    np.testing.assert_array_equal(translated(stacks, network), stacks[:, 2])
    assert network.shapes == [(2, 3, 4, 6), (1, 3, 4, 6)]
