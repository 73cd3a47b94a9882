"""Tests of `transforms.neighbours`: which slices stand beside a slice, and where a cut head's ends repeat."""

import numpy as np
import pytest
import torch

from pipeline.data.stored_slices import air_beyond
from pipeline.exporting import scripted_volume
from transforms.neighbours import Neighbours, neighbour_ends


def ball(slice_mm: float, first_mm: float, last_mm: float, radius_mm: float = 80.0) -> np.ndarray:
    """Return slices of a ball of 0 in air of -1, empty beyond two heights from its middle."""
    heights = np.arange(-100, 100 + slice_mm, slice_mm)
    rows = np.linspace(-100, 100, 64)
    distance = np.sqrt(heights[:, None, None] ** 2 + rows[:, None] ** 2 + rows**2)
    shown = (heights >= first_mm) & (heights <= last_mm)
    return np.where((distance < radius_mm) & shown[:, None, None], 0, -1).astype(np.float32)


@pytest.mark.parametrize("slice_mm", [0.8, 1.0, 2.0, 3.0, 5.0, 6.0])
def test_the_slices_of_a_head_that_ends_by_itself_have_air_beside_them(slice_mm):
    slices = ball(slice_mm, -100, 100)
    assert neighbour_ends(slices, slice_mm) == (0, len(slices) - 1)


def test_thin_slices_with_empty_ones_beyond_are_taken_for_those_of_a_common_space():
    slices = ball(2.0, -30, 100)
    assert neighbour_ends(slices, 2.0) == (0, len(slices) - 1)


@pytest.mark.parametrize("slice_mm", [2.5, 3.0, 6.0])
def test_where_a_scan_cuts_the_head_off_the_last_slice_that_shows_it_repeats(slice_mm):
    slices = ball(slice_mm, -30, 100)
    first = int(np.flatnonzero((slices > -1).any(axis=(1, 2)))[0])
    assert neighbour_ends(slices, slice_mm) == (first, len(slices) - 1)
    assert neighbour_ends(slices[::-1], slice_mm) == (0, len(slices) - 1 - first)


def test_noise_in_the_air_is_no_head():
    slices = ball(3.0, -30, 30)
    noisy = np.maximum(slices, np.random.default_rng(0).uniform(-1, -0.81, slices.shape).astype(np.float32))
    assert neighbour_ends(noisy, 3.0) == neighbour_ends(slices, 3.0) != (0, len(slices) - 1)


def test_empty_volumes_and_a_single_slice_keep_their_ends():
    assert neighbour_ends(np.full((5, 8, 8), -1, np.float32), 2.0) == (0, 4)
    assert neighbour_ends(np.zeros((1, 8, 8), np.float32), 2.0) == (0, 0)


def test_an_empty_slice_beyond_a_cut_still_is_its_own_middle():
    indices = Neighbours(1, (9.0,)).indices([0, 1, 5], (2, 9), 3.0)
    np.testing.assert_array_equal(indices, [[0, 0, 0, 1, 3], [1, 1, 1, 2, 4], [2, 4, 5, 6, 8]])


@pytest.mark.parametrize("heights", [(-100, 100), (-30, 100), (-30, 40)])
def test_the_exported_volume_translator_finds_the_same_ends(heights):
    slices = ball(3.0, *heights)
    scripted = torch.jit.script(scripted_volume.neighbour_ends)
    assert scripted(torch.from_numpy(slices), 3.0) == neighbour_ends(slices, 3.0)


def test_air_lies_beyond_an_end_where_the_head_ends_by_itself_and_all_of_it_is_used():
    slices = ball(3.0, -30, 100)
    occupied = np.flatnonzero((slices > -1).mean(axis=(1, 2)) > 0.05)
    assert air_beyond(slices, 3.0, occupied, occupied) == (False, True)  # cut below, a crown above
    assert air_beyond(slices, 3.0, occupied[:-5], occupied) == (False, False)  # more of the head follows
    whole = ball(3.0, -100, 100)
    occupied = np.flatnonzero((whole > -1).mean(axis=(1, 2)) > 0.05)
    assert air_beyond(whole, 3.0, occupied, occupied) == (True, True)
    rest = occupied[5:] - occupied[5]
    assert air_beyond(whole[occupied[5] :], 3.0, rest, rest) == (False, True)
