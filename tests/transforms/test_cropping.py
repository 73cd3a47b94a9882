import numpy as np
import pytest

from transforms.cropping import (
    box_around,
    crop_box,
    field_in_box,
    fill_outside,
    paste_box,
    repeat_edges,
    resample_field,
    resample_mask,
)
from transforms.head_mask import Head

SHAPE = (7, 6, 5)
WHOLE = tuple(slice(0, length) for length in SHAPE)


def numbered():
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize("box", [[[1, 5], [0, 6], [2, 4]], [[-2, 9], [3, 8], [-1, 2]], [[0, 7], [0, 6], [0, 5]]])
def test_what_was_cut_goes_back_to_its_place(box):
    box = np.array(box)
    result = crop_box(numbered(), box, WHOLE)
    assert result.shape == tuple(box[:, 1] - box[:, 0])
    pasted = paste_box(result, box, WHOLE, SHAPE, -9)
    inner_box = tuple(slice(max(0, start), stop) for start, stop in box)
    expected = np.full(SHAPE, -9, np.float32)
    expected[inner_box] = numbered()[inner_box]
    assert np.array_equal(pasted, expected)


def test_beyond_the_field_the_nearest_voxel_is_repeated():
    field = (slice(1, 6), slice(0, 6), slice(0, 5))  # the first and the last plane are empty
    result = crop_box(numbered(), np.array([[-1, 7], [2, 3], [2, 3]]), field)[:, 0, 0]
    assert result.tolist() == [numbered()[index, 2, 2] for index in (1, 1, 1, 2, 3, 4, 5, 5)]
    inside = field_in_box(np.array([[-1, 7], [2, 3], [2, 3]]), field)
    assert inside == (slice(2, 7), slice(0, 1), slice(0, 1))


def test_planes_beyond_the_field_are_filled_from_within_it_or_blackened():
    inside = (slice(2, 6), slice(0, 6), slice(1, 5))
    spread = repeat_edges(numbered(), inside)
    for index in np.ndindex(SHAPE):
        nearest_voxel = tuple(
            np.clip(at, bounds.start, bounds.stop - 1) for at, bounds in zip(index, inside, strict=True)
        )
        assert spread[index] == numbered()[nearest_voxel]
    black = numbered()
    fill_outside(black, inside, -1)
    assert np.array_equal(black[inside], numbered()[inside])
    assert (np.delete(black, range(2, 6), axis=0) == -1).all() and (black[:, :, 0] == -1).all()


@pytest.mark.parametrize("new", [3, 7, 12])
def test_a_mask_on_another_grid_is_of_the_voxels_it_lies_in(new):
    mask = np.random.default_rng(0).random(SHAPE) < 0.5
    result = resample_mask(mask, (new, 6, 5))
    for index in range(new):
        assert np.array_equal(result[index], mask[int((index + 0.5) * 7 / new)])
    planes = resample_field((slice(2, 5), slice(0, 6), slice(0, 5)), SHAPE, (new, 6, 5))[0]
    assert list(range(new))[planes] == [index for index in range(new) if 2 <= int((index + 0.5) * 7 / new) < 5]


def test_the_box_has_one_margin_and_holds_the_parts_that_the_mask_leaves_out():
    mask = np.zeros((30, 30, 1), bool)
    mask[10:20, 2:28] = True
    outer_box = (slice(10, 27), slice(2, 28), slice(0, 1))  # a nose that ends at the 27th voxel
    head = Head((slice(5, 35), slice(0, 30), slice(0, 1)), mask, outer_box)
    assert box_around(head, (2.5, 2.5, 9.0)).tolist() == [[11, 33], [-2, 32], [0, 1]]
    assert box_around(head, (8.0, 8.0, 9.0)).tolist() == [[13, 29], [0, 30], [0, 1]]  # parts within 30 mm
