from dataclasses import replace
from itertools import permutations, product

import ixi_like
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff

from transforms.io.images import write_raster
from transforms.slice_chain import PreprocessSettings, slice_chain

ORIENTATIONS = [codes for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)]
SETTINGS = PreprocessSettings(axis="axial", spacing_mm=(6.0, 5.0), size=32, n4=False, percentiles=(0.5, 99.5))


def head(contrast="T1", shape=(32, 40, 30), spacing_mm=(5.5, 5.0, 6.0)):
    """An upright head-like phantom that looks different from every side, (X, Y, Z) with its affine."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -np.array(spacing_mm) * (np.array(shape) - 1) / 2
    return ixi_like.head(shape, affine, contrast).astype(np.float32), affine


def stored_as(codes, volume, affine):
    """The same head as a file of another orientation holds it."""
    turn = axcodes2ornt(codes)  # of the wanted axes, in RAS
    inverse = np.array([[np.flatnonzero(turn[:, 0] == axis)[0], turn[turn[:, 0] == axis][0, 1]] for axis in range(3)])
    return apply_orientation(volume, inverse), affine @ inv_ornt_aff(inverse, volume.shape)


def through(volume, affine, *, stride=None, **changes):
    chain = slice_chain(replace(SETTINGS, **changes), stride=stride, load=False)
    return chain, chain({"image": volume, "image_affine": affine})


def test_the_same_head_gives_the_same_stack_however_it_is_stored():
    volume, affine = head()
    _, expected = through(volume, affine)
    assert expected["image"].shape == (36, 32, 32)
    for codes in ORIENTATIONS:
        _, result = through(*stored_as(codes, volume, affine))
        np.testing.assert_allclose(result["image"], expected["image"], atol=1e-5, err_msg=str(codes))
        assert np.array_equal(result["image_foreground"], expected["image_foreground"]), codes
        np.testing.assert_allclose(result["image_affine"], expected["image_affine"], atol=1e-9)


@pytest.mark.parametrize(
    ("axis", "spacing_mm"), [("axial", [2, 2, 4]), ("coronal", [2, 4, 2]), ("sagittal", [4, 2, 2])]
)
def test_the_through_plane_spacing_is_along_the_axis_that_is_cut(axis, spacing_mm):
    volume, affine = head(shape=(24, 32, 28), spacing_mm=(8.0, 6.0, 6.0))
    _, data = through(volume, affine, axis=axis, spacing_mm=(2.0, 4.0), size=16, stride=16)
    np.testing.assert_allclose(np.linalg.norm(data["image_affine"][:3, :3], axis=0), spacing_mm)
    through_mm = {"axial": 28 * 6, "coronal": 32 * 6, "sagittal": 24 * 8}[axis]
    assert len(data["image"]) == through_mm / 4


def test_the_bias_field_is_corrected_before_anything_is_resampled():
    volume, affine = head()
    gain = np.exp(np.linspace(-0.5, 0.5, 40)).reshape(1, 40, 1)
    chain, data = through((volume * gain).astype(np.float32), affine, n4=True, spacing_mm=None, size=48)
    _, plain = through((volume * gain).astype(np.float32), affine, spacing_mm=None, size=48)
    _, flat = through(volume, affine, spacing_mm=None, size=48)
    errors = [np.abs(result["image"] - flat["image"]).mean() for result in (data, plain)]
    assert errors[0] < 0.6 * errors[1]
    assert chain.inverse(data)["image"].shape == volume.shape


@pytest.mark.parametrize(
    ("percentiles", "n4", "top"), [(None, False, 254 / 255 * 2 - 1), ((0, 100), False, 1), ((0, 100), True, 1)]
)
def test_a_picture_becomes_one_slice_and_returns(tmp_path, percentiles, n4, top):
    levels = np.zeros((181, 217), np.float32)
    levels[40:140, 30:190] = np.linspace(100, 254, 100).reshape(100, 1)
    path = tmp_path / "Image #1.png"
    write_raster(path, levels / 255)
    chain = slice_chain(PreprocessSettings(axis="axial", spacing_mm=None, size=256, n4=n4, percentiles=percentiles))
    data = chain({"image": path})
    assert data["image"].shape == (1, 256, 256) and data["image_integer"] is True
    restored = chain.inverse(data)["image"]
    assert restored.shape == (181, 217, 1)
    assert data["image"].max() == pytest.approx(top, abs=1e-6)
    if not n4:
        inside = levels > 0
        np.testing.assert_allclose(restored[inside, 0], np.rint(levels[inside]), atol=1e-2)
