from itertools import permutations, product

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes
from scipy import ndimage

from transforms import spatial
from transforms.head_mask import Head

ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
SHAPES = [((7, 5, 4), (7, 5, 4)), ((8, 9, 6), (4, 3, 2)), ((7, 5, 4), (10, 3, 9)), ((6, 6, 1), (4, 9, 1))]


def oriented_affine(order, signs, spacing_mm=(0.9, 1.1, 2.5), tilt_degrees=0.0):
    """A voxel-to-RAS affine whose voxel axis i runs along world axis order[i], by the sign, tilted about x."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis in range(3):
        affine[order[axis], axis] = signs[axis] * spacing_mm[axis]
    angle = np.deg2rad(tilt_degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ affine
    affine[:3, 3] = [-31.0, 17.0, 5.0]
    return affine


@pytest.mark.parametrize("tilt_degrees", [0, 8])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: "".join(aff2axcodes(oriented_affine(*o))))
def test_canonical_is_ras_every_voxel_stays_where_it_was_and_the_way_back_is_exact(orientation, tilt_degrees):
    affine = oriented_affine(*orientation, tilt_degrees=tilt_degrees)
    array = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    canonical, canonical_affine = spatial.to_canonical(array, affine)
    assert aff2axcodes(canonical_affine) == ("R", "A", "S")
    for voxel in np.ndindex(canonical.shape):
        world = apply_affine(canonical_affine, voxel)
        source_voxel = np.rint(apply_affine(np.linalg.inv(affine), world)).astype(int)
        assert canonical[voxel] == array[tuple(source_voxel)]
    assert np.array_equal(spatial.from_canonical(canonical, affine), array)


@pytest.mark.parametrize(("shape", "new_shape"), SHAPES)
def test_resampling_equals_scipy_at_the_same_world_points(shape, new_shape):
    array = np.random.default_rng(1).random(shape, np.float32)
    affine = oriented_affine((0, 1, 2), (1, 1, 1), tilt_degrees=11)
    voxels = np.indices(new_shape).reshape(3, -1).T  # (count, 3)
    world = apply_affine(spatial.affine_at_shape(affine, shape, new_shape), voxels)
    source = apply_affine(np.linalg.inv(affine), world)
    expected = ndimage.map_coordinates(array, source.T, order=1, mode="nearest").reshape(new_shape)
    np.testing.assert_allclose(spatial.resample_to_shape(array, new_shape), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("spacing_mm", "expected"),
    [
        ((0.9, 1.1, 2.5), (10, 20, 30)),
        ((1.8, 1.1, 1.25), (5, 20, 60)),
        ((2, 2, 2), (4, 11, 38)),
        ((99, 99, 99), (1, 1, 1)),
    ],
)
def test_as_many_voxels_as_fill_the_field_of_view(spacing_mm, expected):
    assert spatial.shape_at_spacing((10, 20, 30), oriented_affine((0, 1, 2), (1, -1, 1)), spacing_mm) == expected


# ── low-pass ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("length", "new"), [(8, 2), (12, 9), (7, 3), (16, 16), (5, 1)])
def test_larger_voxels_are_triangles_of_their_width(length, new):
    line = np.random.default_rng(0).random(length).astype(np.float32)
    ratio = length / new
    expected = []
    for centre in (np.arange(new) + 0.5) * ratio:  # in old voxels, whose centres lie at 0.5, 1.5, …
        weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centre) / ratio)
        expected.append(np.sum(weights * line) / np.sum(weights))
    for axis in range(3):
        array = np.moveaxis(np.broadcast_to(line[:, None, None], (length, 3, 4)), 0, axis)
        shape = [3, 4]
        shape.insert(axis, new)
        result = np.moveaxis(spatial.resample_to_shape(array, shape, low_pass=True), axis, 0)
        np.testing.assert_allclose(result[:, 1, 2], expected, atol=1e-6)


# ── cropping ────────────────────────────────────────────────────────────────────────────────────────────────

CROPPED_SHAPE = (7, 6, 5)
WHOLE = tuple(slice(0, length) for length in CROPPED_SHAPE)


def numbered():
    return np.arange(np.prod(CROPPED_SHAPE), dtype=np.float32).reshape(CROPPED_SHAPE)


@pytest.mark.parametrize("box", [[[1, 5], [0, 6], [2, 4]], [[-2, 9], [3, 8], [-1, 2]], [[0, 7], [0, 6], [0, 5]]])
def test_what_was_cut_goes_back_to_its_place(box):
    box = np.array(box)
    result = spatial.crop_box(numbered(), box, WHOLE)
    assert result.shape == tuple(box[:, 1] - box[:, 0])
    pasted = spatial.paste_box(result, box, WHOLE, CROPPED_SHAPE, -9)
    inner_box = tuple(slice(max(0, start), stop) for start, stop in box)
    expected = np.full(CROPPED_SHAPE, -9, np.float32)
    expected[inner_box] = numbered()[inner_box]
    assert np.array_equal(pasted, expected)


@pytest.mark.parametrize("box", [[[0, 7], [0, 6], [0, 5]], [[1, 5], [0, 6], [0, 5]], [[1, 5], [1, 5], [1, 4]]])
def test_what_is_done_to_a_crop_is_not_done_to_the_volume(box):
    volume = numbered()
    spatial.crop_box(volume, np.array(box), WHOLE)[:] = -9
    assert np.array_equal(volume, numbered())


def test_beyond_the_field_the_nearest_voxel_is_repeated():
    field = (slice(1, 6), slice(0, 6), slice(0, 5))  # the first and the last plane are empty
    result = spatial.crop_box(numbered(), np.array([[-1, 7], [2, 3], [2, 3]]), field)[:, 0, 0]
    assert result.tolist() == [numbered()[index, 2, 2] for index in (1, 1, 1, 2, 3, 4, 5, 5)]
    inside = spatial.field_in_box(np.array([[-1, 7], [2, 3], [2, 3]]), field)
    assert inside == (slice(2, 7), slice(0, 1), slice(0, 1))


def test_planes_beyond_the_field_are_filled_from_within_it_or_blackened():
    inside = (slice(2, 6), slice(0, 6), slice(1, 5))
    spread = spatial.repeat_edges(numbered(), inside)
    for index in np.ndindex(CROPPED_SHAPE):
        nearest = [np.clip(at, bounds.start, bounds.stop - 1) for at, bounds in zip(index, inside, strict=True)]
        assert spread[index] == numbered()[tuple(nearest)]
    black = numbered()
    spatial.fill_outside(black, inside, -1)
    assert np.array_equal(black[inside], numbered()[inside])
    assert (np.delete(black, range(2, 6), axis=0) == -1).all() and (black[:, :, 0] == -1).all()


@pytest.mark.parametrize("new", [3, 7, 12])
def test_a_mask_on_another_grid_is_of_the_voxels_it_lies_in(new):
    mask = np.random.default_rng(0).random(CROPPED_SHAPE) < 0.5
    result = spatial.resample_mask(mask, (new, 6, 5))
    for index in range(new):
        assert np.array_equal(result[index], mask[int((index + 0.5) * 7 / new)])
    planes = spatial.resample_field((slice(2, 5), slice(0, 6), slice(0, 5)), CROPPED_SHAPE, (new, 6, 5))[0]
    assert list(range(new))[planes] == [index for index in range(new) if 2 <= int((index + 0.5) * 7 / new) < 5]


def test_the_box_has_one_margin_and_holds_the_parts_that_the_mask_leaves_out():
    mask = np.zeros((30, 30, 1), bool)
    mask[10:20, 2:28] = True
    outer_box = (slice(10, 27), slice(2, 28), slice(0, 1))  # a nose that ends at the 27th voxel
    head = Head((slice(5, 35), slice(0, 30), slice(0, 1)), mask, outer_box)
    assert spatial.box_around(head, (2.5, 2.5, 9.0)).tolist() == [[11, 33], [-2, 32], [0, 1]]
    assert spatial.box_around(head, (8.0, 8.0, 9.0)).tolist() == [[13, 29], [0, 30], [0, 1]]  # parts within 30 mm
