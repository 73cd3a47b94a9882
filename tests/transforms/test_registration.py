import numpy as np
import pytest
from head_scans import HALF, scan, slanted_left_posterior_affine
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from transforms import registration
from transforms.registration import low_pass_filter, register_rigid, resample_onto, same_grid


def rigid_transform(angles_degrees, shift_mm):
    return from_matvec(Rotation.from_euler("xyz", angles_degrees, degrees=True).as_matrix(), shift_mm)


T1_SHAPE = (70, 88, 68)
T1_AFFINE = from_matvec(np.diag([1.2, 1.2, 1.25]), [-41, -52, -42])


def head_corners():
    return np.array([[x, y, z] for x in (-30, 30) for y in (-40, 40) for z in (-32, 32)])


def corner_error_mm(result, truth):
    corners = head_corners()
    return np.linalg.norm(apply_affine(result, corners) - apply_affine(truth, corners), axis=1).max()


def rotation_error_degrees(result, truth):
    return np.rad2deg(Rotation.from_matrix(result[:3, :3] @ truth[:3, :3].T).magnitude())


@pytest.fixture(scope="module")
def t1_scan():
    return scan("T1", shape=T1_SHAPE, affine=T1_AFFINE, world_to_head=HALF)


def test_the_movement_of_a_head_between_two_contrasts_is_recovered(t1_scan):
    angles_degrees, shift_mm = (0, 0, 6), (30, -22, 35)  # far from where its header says
    offset = rigid_transform((0, 0, 0), (17, -20, 25))  # the T1 scan's world has its origin outside the head
    # From the T1 scan's world to the T2 scan's.
    truth = rigid_transform(angles_degrees, shift_mm) @ np.linalg.inv(offset)
    shape = (90, 108, 44)
    affine = slanted_left_posterior_affine(shape, (0.95, 0.95, 1.95))
    affine[:3, 3] += shift_mm
    to_head = HALF @ np.linalg.inv(rigid_transform(angles_degrees, shift_mm))
    t2_scan = scan("T2", shape=shape, affine=affine, world_to_head=to_head, seed=1)
    result = register_rigid(t1_scan, offset @ T1_AFFINE, t2_scan, affine)
    assert corner_error_mm(result @ offset, truth @ offset) < 0.5
    assert rotation_error_degrees(result, truth) < 0.5
    np.testing.assert_allclose(result[:3, :3] @ result[:3, :3].T, np.eye(3), atol=1e-6)


def test_a_scan_in_place_stays_in_place_and_the_same_scans_give_the_same_bits(t1_scan):
    t2_scan = scan("T2", **T2_IN_PLACE)
    result = register_rigid(t1_scan, T1_AFFINE, t2_scan, T1_AFFINE)
    assert corner_error_mm(result, np.eye(4)) < 0.5
    np.testing.assert_array_equal(register_rigid(t1_scan, T1_AFFINE, t2_scan, T1_AFFINE), result)


T2_IN_PLACE = {"shape": T1_SHAPE, "affine": T1_AFFINE, "world_to_head": HALF, "seed": 1}


@pytest.fixture
def starts(monkeypatch):
    """The starts that an optimiser is given which leaves each where it is."""
    records = []
    monkeypatch.setattr(registration, "_optimise", lambda fixed, moving, start, **_: records.append(start) or start)
    return records


def test_the_search_starts_from_the_headers_and_from_the_centres_of_brightness_and_the_better_one_goes_on(
    t1_scan, starts
):
    t2_scan, offset = scan("T2", **T2_IN_PLACE), rigid_transform((0, 0, 0), (45, 10, -15))
    # The same head, with another position in its header.
    result = register_rigid(t1_scan, T1_AFFINE, t2_scan, offset @ T1_AFFINE)
    headers, centres, fine = starts
    np.testing.assert_array_equal(headers, np.eye(4))
    np.testing.assert_allclose(centres, offset, atol=6)  # T1 is brightest elsewhere than T2
    assert result is fine is centres

    starts.clear()
    half = t2_scan.copy()
    half[..., : T1_SHAPE[2] // 2] = half.min()  # with another centre
    assert corner_error_mm(register_rigid(t1_scan, T1_AFFINE, half, T1_AFFINE), np.eye(4)) == 0
    headers, centres, fine = starts
    assert fine is headers and abs(centres[2, 3]) > 7


def test_where_the_headers_agree_better_than_what_is_found_they_are_believed(t1_scan, monkeypatch):
    wrong_transform = rigid_transform((0, 0, 20), (15, 0, 0))
    monkeypatch.setattr(registration, "_optimise", lambda *_, **__: wrong_transform)
    result = register_rigid(t1_scan, T1_AFFINE, scan("T2", **T2_IN_PLACE), T1_AFFINE)
    np.testing.assert_array_equal(result, np.eye(4))
    inverse = np.linalg.inv(wrong_transform)
    moved = scan("T2", **{**T2_IN_PLACE, "world_to_head": HALF @ inverse})
    np.testing.assert_array_equal(register_rigid(t1_scan, T1_AFFINE, moved, T1_AFFINE), wrong_transform)  # but not here


def test_a_few_voxels_far_brighter_than_the_head_do_not_darken_it(t1_scan, monkeypatch):
    grids = []
    monkeypatch.setattr(
        registration, "_optimise", lambda fixed, moving, start, **_: grids.extend((fixed, moving)) or start
    )
    with_outliers = t1_scan.copy()
    with_outliers[35:38, 44:47, 34:37] = 1e5
    register_rigid(with_outliers, T1_AFFINE, t1_scan, T1_AFFINE)
    assert grids[0].grid.max() == pytest.approx(grids[1].grid.max(), rel=0.05)


def test_what_cannot_be_registered_is_a_clear_error(t1_scan):
    with pytest.raises(ValueError, match="the two scans could not be registered: "):
        register_rigid(t1_scan, T1_AFFINE, np.full_like(t1_scan, 3), T1_AFFINE)


def test_resampling_follows_the_movement_and_fills_what_is_missing():
    volume = np.arange(5.0)[:, None, None] * np.ones((5, 3, 3))  # the value is the position along x in mm
    shifted = resample_onto(volume, np.eye(4), rigid_transform((0, 0, 0), (1.5, 0, 0)), (5, 3, 3), np.eye(4), fill=-7)
    np.testing.assert_allclose(shifted[:3, 1, 1], [1.5, 2.5, 3.5])
    assert shifted[4, 1, 1] == -7
    halved = resample_onto(volume, np.eye(4), np.eye(4), (9, 3, 3), np.diag([0.5, 1, 1, 1]))
    np.testing.assert_allclose(halved[:, 1, 1], np.arange(9) / 2)


def test_grids_are_the_same_where_no_corner_is_apart():
    affine = slanted_left_posterior_affine((200, 200, 30), (1, 1, 4))
    assert same_grid((200, 200, 30), affine, (200, 200, 30), affine + 1e-6)
    assert not same_grid((200, 200, 30), affine, (200, 200, 31), affine)
    stretched = affine @ np.diag([1.001, 1, 1, 1])  # the first voxel in place, the last 0.2 mm off
    assert not same_grid((200, 200, 30), affine, (200, 200, 30), stretched)
    tilted = rigid_transform((0, 0, 0.02), (0, 0, 0)) @ affine  # 0.02 degrees: 0.05 mm at the far corner
    assert not same_grid((200, 200, 30), affine, (200, 200, 30), tilted)


def test_noise_on_a_coarser_grid_is_averaged_and_masks_are_not():
    noise = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32)
    coarse = np.diag([4.0, 4.0, 1.0, 1.0])
    settings = (noise, np.eye(4), np.eye(4), (16, 16, 64), coarse)
    assert np.std(resample_onto(*settings, low_pass=False)) > 0.9  # at the voxels' centres
    assert np.std(resample_onto(*settings)[2:-2, 2:-2]) < 0.2
    mask = (noise > 0).astype(np.uint8)
    nearest = resample_onto(mask, *settings[1:], order=0)
    np.testing.assert_array_equal(nearest, mask[::4, ::4])


def test_the_blur_follows_the_moving_volumes_own_axes():
    """A turn by a right angle about z: the new grid's long voxels along x lie along the moving volume's y."""
    volume = np.random.default_rng(0).normal(size=(33, 33, 9)).astype(np.float32)
    rotation = rigid_transform((0, 0, 90), (0, 32, 0))
    result = resample_onto(volume, np.eye(4), rotation, (8, 33, 9), np.diag([4.0, 1, 1, 1]), low_pass=True)
    along_y = ndimage.gaussian_filter1d(volume, np.sqrt((16 - 1) / 6), axis=1, mode="nearest")
    expected = resample_onto(along_y, np.eye(4), rotation, (8, 33, 9), np.diag([4.0, 1, 1, 1]), low_pass=False)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("ratio", [1.0, 1.3, 2.0, 4.5])
def test_blur_and_interpolation_have_the_variance_of_the_triangle(ratio):
    point = np.zeros(101)
    point[50] = 1
    blurred = low_pass_filter(point, [ratio])
    offsets = np.arange(101) - 50
    variance = np.sum(blurred * offsets**2) + 1 / 6  # the interpolation's
    assert variance == pytest.approx(max(1, ratio) ** 2 / 6, rel=0.06)
