from itertools import permutations

import numpy as np
import pytest

from transforms.slices import (
    AXES,
    centre_fit,
    contiguous,
    cut_slices,
    evenly_spread,
    occupied_slices,
    size_without_cropping,
    slices_with_content,
    stack_slices,
    well_filled_slices,
)


@pytest.mark.parametrize(("axis", "shape"), [("axial", (5, 3, 4)), ("coronal", (4, 3, 5)), ("sagittal", (3, 4, 5))])
def test_slices_hold_the_two_other_axes_in_their_order(axis, shape):
    volume = np.arange(60).reshape(3, 4, 5)  # (R, A, S)
    slices = cut_slices(volume, axis)
    assert slices.shape == shape
    for index in range(shape[0]):
        assert np.array_equal(slices[index], np.take(volume, index, AXES[axis]))
    assert np.array_equal(stack_slices(slices, axis), volume)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(10, 10, (64, 64)), (64, 65, (64, 80)), (80, 81, (80, 96)), (200, 64, (208, 64))]
)
def test_a_slice_is_held_whole_by_a_multiple_of_the_stride(height, width, expected):
    assert size_without_cropping(height, width, size=64, stride=16) == expected


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(9, 3, [0, 4, 8]), (5, 9, [0, 1, 2, 3, 4]), (10, 4, [0, 3, 6, 9]), (4, 1, [0]), (0, 3, [])],
)
def test_evenly_spread_things_go_from_the_first_to_the_last(count, most, expected):
    assert evenly_spread(count, most).tolist() == expected


def test_occupied_slices_have_their_share_of_foreground():
    foreground = np.zeros((5, 2, 5), bool)
    foreground[1, 0, 0] = True  # 10 %
    foreground[2, 0, :2] = True  # 20 %
    foreground[4] = True
    assert occupied_slices(foreground, 0.2).tolist() == [2, 4]
    assert occupied_slices(foreground, 0.1).tolist() == [1, 2, 4]
    assert occupied_slices(foreground, 1.0).tolist() == [4]
    assert occupied_slices(foreground, 0.0).tolist() == [1, 2, 4]  # an empty slice never is
    assert occupied_slices(np.zeros((3, 2, 2), bool), 0.0).tolist() == []


def test_empty_slices_are_told_from_those_that_show_the_tip_of_a_head():
    slices = np.full((4, 6, 6), -1, np.float32)
    foreground = np.zeros((4, 6, 6), bool)
    foreground[1, 2, 2] = True  # a dark place inside the head
    slices[2, 3, 3] = 0.4  # a speck of bright tissue that the mask has dropped
    slices[3] = -0.8  # the noise of air
    assert slices_with_content(slices, foreground).tolist() == [False, True, True, False]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_copying_by_planes_is_copying(order):
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    for view in (volume.transpose(order), volume[::-1, :, ::-1].transpose(order), volume[1:3, ::2].transpose(order)):
        copied = contiguous(view)
        assert copied.flags.c_contiguous
        np.testing.assert_array_equal(copied, view)


def test_fitting_writes_every_pixel_of_slices_in_any_memory_order():
    stack = np.random.default_rng(0).random((5, 6, 3)).transpose(2, 0, 1)  # (N, H, W)
    for height, width in ((5, 6), (3, 4), (9, 4), (4, 9), (8, 11)):
        expected = stack
        for axis, length in ((1, height), (2, width)):
            more = max(0, length - expected.shape[axis])
            margins = [(more // 2, more - more // 2) if axis == other_axis else (0, 0) for other_axis in range(3)]
            expected = np.pad(expected, margins, constant_values=-1)
            start = (expected.shape[axis] - length) // 2
            expected = expected.take(range(start, start + length), axis)
        np.testing.assert_array_equal(centre_fit(stack, height, width, fill=-1), expected)


def test_a_fair_share_is_a_quarter_of_what_the_fullest_slice_has():
    foreground = np.zeros((6, 4, 10), bool)
    for slice_, count in zip(foreground, (0, 9, 10, 40, 11, 1), strict=True):
        slice_.flat[:count] = True
    assert well_filled_slices(foreground).tolist() == [2, 3, 4]
