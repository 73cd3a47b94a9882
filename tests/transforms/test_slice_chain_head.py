"""The chain of new models: the same head gives the same slices, whatever surrounds it and whatever its zero is."""

from dataclasses import replace

import ixi_like
import numpy as np
import pytest
from head_scans import scan
from nibabel.affines import from_matvec, voxel_sizes

from transforms.head_mask import find_head
from transforms.intensity import scale_from_unit
from transforms.mask_regions import bounding_box
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings, slice_chain

SETTINGS = PreprocessSettings(
    axis="axial", spacing_mm=None, size=48, n4=False, percentiles=(0.5, 99.5), version=CHAIN_VERSION
)
MARGINS = [(3, 17), (40, 0), (1, 8)]  # voxels on each side
SMALLEST_PSNR = 80  # dB of a range of 2: rounding


def head(noise=4.0, contrast="T1", shape=(38, 44, 36), spacing_mm=(5.0, 5.2, 5.6)):
    """A head in noisy air, upright, and its affine."""
    affine = ixi_like.centred_affine(shape, np.eye(3), spacing_mm, 0)
    return ixi_like.head(shape, affine, contrast, noise=noise).astype(np.float32), affine


def skull_stripped(background=0.0):
    """A brain of smoothly varying tissue on a background of one value, no noise in it, and its affine."""
    affine = from_matvec(np.diag([4.5, 4.6, 4.8]), [-79, -99, -79])
    volume = scan("T1", affine=affine)
    inside = ellipsoid(volume.shape, 0.8)
    volume[~inside] = background
    return volume, affine, inside


def ellipsoid(shape, size):
    axes = np.ogrid[tuple(slice(-1, 1, length * 1j) if length > 1 else slice(0, 1) for length in shape)]
    return sum((axis / size) ** 2 for axis in axes) < 1


def padded(volume, affine, margins, value=0.0):
    """The volume with so many voxels more on each side, where it was in the world."""
    wide = np.pad(volume, margins, constant_values=value)
    return wide, affine @ from_matvec(np.eye(3), [-margin for margin, _ in margins])


def through(volume, affine, *, stride=None, box=None, **changes):
    chain = slice_chain(replace(SETTINGS, **changes), stride=stride, box=box, load=False)
    return chain, chain({"image": volume, "image_affine": affine})


def psnr(first, second, data_range=2.0):
    error = np.mean((np.asarray(first, float) - second) ** 2)
    return np.inf if error == 0 else 10 * np.log10(data_range**2 / error)


def assert_alike(result, expected):
    assert result["image"].shape == expected["image"].shape
    assert psnr(result["image"], expected["image"]) > SMALLEST_PSNR
    assert np.array_equal(result["image_foreground"], expected["image_foreground"])
    np.testing.assert_allclose(result["image_affine"], expected["image_affine"], atol=1e-4)


# ── what surrounds the head ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_a_head_that_the_field_of_view_cuts_is_the_same_beside_an_empty_margin(axis):
    volume, affine = head()
    cut = np.ascontiguousarray(volume[:, :, 14:])
    settings = {"axis": axis, "spacing_mm": (5.0, 6.5), "stride": 16}
    chain, expected = through(cut, affine, **settings)
    wide_chain, result = through(*padded(cut, affine, MARGINS), **settings)
    assert_alike(result, expected)
    original, wide = chain.inverse(expected)["image"], wide_chain.inverse(result)["image"]
    low, high = expected["image_range"]
    inner = tuple(slice(margin, margin + length) for (margin, _), length in zip(MARGINS, cut.shape, strict=True))
    assert psnr(wide[inner], original, high - low) > SMALLEST_PSNR
    assert (np.delete(wide, range(40, 40 + cut.shape[1]), axis=1) == np.float32(low)).all()


def test_the_edge_of_a_field_of_view_is_not_darkened_by_what_lies_beyond():
    tissue = np.full((24, 24, 24), 500, np.float32)
    tissue[12:] = 900
    volume = np.where(ellipsoid(tissue.shape, 0.8), tissue, 0).astype(np.float32)
    volume += np.random.default_rng(0).uniform(0, 8, volume.shape).astype(np.float32)
    cut = np.ascontiguousarray(volume[:, :, 12:])  # through the middle: the lowest plane is half tissue
    chain, data = through(cut, np.diag([7.0, 7.0, 7.0, 1]), spacing_mm=(7.0, 5.0))
    restored = chain.inverse(data)["image"]
    deep = ellipsoid(tissue.shape, 0.6)[:, :, 12]
    low, high = data["image_range"]
    assert np.abs(restored[:, :, 0] - np.clip(cut[:, :, 0], low, high))[deep].max() < 0.02 * high


@pytest.mark.parametrize("noise", [4.0, 40.0])
def test_how_much_noisy_air_there_is_does_not_matter(noise):
    wide, affine = head(noise, shape=(60, 64, 54))
    cropped = np.ascontiguousarray(wide[8:-9, 5:-6, 7:-6])
    _, expected = through(wide, affine, size=64)
    _, result = through(cropped, affine @ from_matvec(np.eye(3), [8, 5, 7]), size=64)
    assert_alike(result, expected)


def test_a_margin_is_of_one_width_in_millimetres_whatever_the_volume_has():
    volume, affine = head()
    tight = np.ascontiguousarray(volume[bounding_box(find_head(volume).mask)])
    _, data = through(tight, affine)
    assert data["image_before_fit"] == (tight.shape[0] + 4, tight.shape[1] + 4)  # 10 mm of 5.0 and 5.2
    assert len(data["image"]) == tight.shape[2] + 4
    assert (data["image"][:2] == -1).all() and not data["image_foreground"][:2].any()


# ── what its zero is, and what it is surrounded by ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("gain", "shift", "spacing_mm", "n4"),
    [(1 / 130, -2.5, None, False), (1.0, -300.0, (3.7, 4.1), False), (3.0, 4000.0, (5.0, 6.5), True)],
)
def test_a_masked_head_whose_zero_moved_gives_the_same_slices(gain, shift, spacing_mm, n4):
    volume, affine, inside = skull_stripped()
    _, expected = through(volume, affine, spacing_mm=spacing_mm, n4=n4)
    shifted = np.where(inside, volume * np.float32(gain) + np.float32(shift), np.float32(0))
    chain, result = through(shifted, affine, spacing_mm=spacing_mm, n4=n4)
    assert psnr(result["image"], expected["image"]) > 60
    assert np.array_equal(result["image_foreground"], expected["image_foreground"])
    assert (result["image"][~result["image_foreground"]] == -1).all()
    restored = chain.inverse({**result, "image_range": (10.0, 20.0)})["image"]
    assert (restored[~inside] == 10).mean() > 0.97 and restored.shape == volume.shape


@pytest.mark.parametrize(("value", "spacing_mm"), [(-1024.0, None), (0.0, (5.0, 6.5))])
def test_padding_in_the_corners_of_noisy_air_is_black_and_moves_nothing(value, spacing_mm):
    volume, affine = head()
    disc = ellipsoid((*volume.shape[:2], 1), 1.05)[:, :, 0]
    padded_corners = np.where(disc[..., None], volume, np.float32(value))
    _, expected = through(volume, affine, spacing_mm=spacing_mm)
    _, result = through(padded_corners, affine, spacing_mm=spacing_mm)
    head_only = expected["image_foreground"] & result["image_foreground"]
    assert head_only.sum() > 0.99 * max(expected["image_foreground"].sum(), result["image_foreground"].sum())
    assert psnr(result["image"][head_only], expected["image"][head_only]) > 50
    assert result["image"].max() == 1 and result["image"][:, :3, :3].max() == -1


# ── the way back, and settings ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_without_resampling_the_way_back_is_exact_in_the_box_and_dark_around_it(axis):
    volume, affine = head(shape=(60, 64, 54))
    chain, data = through(volume, affine, axis=axis, stride=16)
    low, high = data["image_range"]
    restored = chain.inverse(data)
    cut = tuple(slice(*bounds) for bounds in data["image_box"])
    expected = np.full_like(volume, low)
    expected[cut] = np.clip(volume[cut], low, high)
    np.testing.assert_allclose(restored["image"], expected, atol=1e-3)
    assert np.array_equal(restored["image_affine"], affine)
    assert np.prod(data["image_box"][:, 1] - data["image_box"][:, 0]) < 0.7 * volume.size


def test_the_slices_lie_in_the_world_where_the_affine_says():
    volume, affine = head()
    volume[20, 30, 17] = 5000
    _, data = through(volume, affine, percentiles=(0, 100), stride=16)
    position, row, column = np.argwhere(data["image"] == 1)[0]
    margins = (np.array(data["image"].shape[1:]) - data["image_before_fit"]) // 2
    world = data["image_affine"] @ [row - margins[0], column - margins[1], position, 1]
    np.testing.assert_allclose(world, affine @ [20, 30, 17, 1], atol=1e-6)
    np.testing.assert_allclose(voxel_sizes(data["image_affine"]), [5.0, 5.2, 5.6])


def test_noise_finer_than_the_grid_is_averaged():
    noise = np.random.default_rng(0).normal(0, 60, (64, 64, 64)).astype(np.float32)
    volume = np.where(ellipsoid(noise.shape, 0.9), 1000 + noise, noise + 60)
    affine, spreads = np.diag([2.0, 2.0, 2.0, 1]), {}
    for version in (1, CHAIN_VERSION):
        _, data = through(volume, affine, spacing_mm=(8.0, 8.0), size=16, percentiles=(0, 100), version=version)
        intensities = scale_from_unit(data["image"], *data["image_range"])
        spreads[version] = np.std(intensities[ellipsoid(data["image"].shape, 0.45)]) / 60
    assert 0.25 < spreads[1] < 0.45  # of the eight voxels that linear interpolation sees: 0.35
    assert spreads[CHAIN_VERSION] < 0.1  # of a triangle of eight voxels along each axis: 0.07


def test_settings_without_a_version_are_the_chain_that_cuts_nothing():
    volume, affine = head()
    content = SETTINGS.to_json()
    del content["version"]
    data = slice_chain(PreprocessSettings.from_json(content), load=False)({"image": volume, "image_affine": affine})
    assert data["image_before_fit"] == volume.shape[:2]
    assert "image_box" not in data
    with pytest.raises(ValueError, match="preprocessing of version 7: this release knows 1 to 2"):
        slice_chain(replace(SETTINGS, version=7))
