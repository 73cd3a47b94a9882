import nibabel as nib
import numpy as np
import pytest

from transforms.io.images import write_raster
from transforms.monai_transforms import BiasFieldd, CentreFitd, LoadVolumed, ScaleForegroundd, Slicesd
from transforms.slices import centre_fit

AFFINE = np.array([[0, 0, -1.5, 40], [-1, 0, 0, 30], [0, 2, 0, -20], [0, 0, 0, 1.0]])  # PSL


def a_box(shape=(12, 14, 10)):
    """A bright box with a gradient, in air."""
    volume = np.zeros(shape, np.float32)
    inside = tuple(slice(2, length - 2) for length in shape)
    volume[inside] = 100 + np.arange(volume[inside].size, dtype=np.float32).reshape(volume[inside].shape)
    return volume


def loaded(volume=None, affine=AFFINE):
    return {"image": a_box() if volume is None else volume, "image_affine": affine}


@pytest.mark.parametrize(
    ("dtype", "slope", "integer"),
    [(np.int16, 1, True), (np.uint8, 1, True), (np.float32, 0.5, False), (np.int16, 0.5, False)],
)
def test_loading_gives_voxels_affine_and_whether_they_are_whole_numbers(tmp_path, dtype, slope, integer):
    volume = np.arange(60).reshape(3, 4, 5) * slope
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(volume, AFFINE, dtype=dtype), path)  # nibabel scales what whole numbers cannot hold
    data = LoadVolumed("image")({"image": path})
    assert np.allclose(data["image"], volume, atol=0.001)
    assert data["image"].dtype == np.float32
    assert np.array_equal(data["image_affine"], AFFINE)
    assert data["image_integer"] is integer
    assert "image_type_range" not in data


def test_loading_a_picture_gives_a_volume_one_voxel_thick(tmp_path):
    path = tmp_path / "Image #10.png"
    write_raster(path, np.linspace(0, 1, 12).reshape(4, 3))
    data = LoadVolumed("image")({"image": str(path)})
    assert data["image"].shape == (4, 3, 1)
    assert np.array_equal(data["image_affine"], np.eye(4))
    assert data["image_type_range"] == 255
    assert data["image_integer"] is True


def test_scaling_keeps_foreground_and_range_and_returns():
    step = ScaleForegroundd("image", (0, 100))
    data = step(loaded())
    assert np.array_equal(data["image_foreground"], a_box() > 0)
    assert data["image_range"] == (100, 100 + 8 * 10 * 6 - 1)
    assert (data["image"][data["image_foreground"]].min(), data["image"].max()) == (-1, 1)
    restored = step.inverse(data)["image"]
    np.testing.assert_allclose(restored[a_box() > 0], a_box()[a_box() > 0], atol=1e-3)


@pytest.mark.parametrize(("largest", "expected"), [(255.0, 1.0), (65535.0, -0.9922)])
def test_scaling_by_the_types_range_looks_at_no_voxel(largest, expected):
    volume = np.zeros((8, 8, 1), np.float32)
    volume[2:6, 2:6] = 255
    data = ScaleForegroundd("image", None)({"image": volume, "image_type_range": largest})
    assert data["image"].min() == -1
    assert data["image"].max() == pytest.approx(expected, abs=1e-4)
    assert data["image_range"] == (0, largest)


@pytest.mark.parametrize("type_range", [{}, {"image_type_range": None}])  # a volume, and a floating-point picture
def test_scaling_by_a_types_range_that_is_not_known_is_an_error(type_range):
    message = r"8 or 16 bit; set preprocess.scaling: percentiles \[ScaleForegroundd, key 'image'\]"
    with pytest.raises(ValueError, match=message):
        ScaleForegroundd("image", None)(loaded() | type_range)


@pytest.mark.parametrize("size", [16, 10, 13])
def test_training_slices_are_squares_with_dark_margins_and_return_what_they_kept(size):
    step = CentreFitd("image", size, None)
    sliced = Slicesd("image", "axial")(ScaleForegroundd("image", (0, 100))(loaded()))
    data = step(sliced)
    np.testing.assert_array_equal(data["image"], centre_fit(sliced["image"], size, size, fill=-1))
    np.testing.assert_array_equal(
        data["image_foreground"], centre_fit(sliced["image_foreground"], size, size, fill=False)
    )
    restored = step.inverse(data)["image"]
    np.testing.assert_array_equal(restored, centre_fit(data["image"], 12, 14, fill=-1))


def test_an_error_names_transform_and_key():
    constant = np.full((4, 4, 4), 3.0, np.float32)
    for step in (BiasFieldd("scan"), ScaleForegroundd("scan", (1, 99))):
        with pytest.raises(ValueError, match=rf"every voxel .* 3: .* \[{type(step).__name__}, key 'scan'\]"):
            step({"scan": constant, "scan_affine": np.eye(4)})
    with pytest.raises(ValueError, match=r"nowhere\.nii\.gz.* \[LoadVolumed, key 'scan'\]"):
        LoadVolumed("scan")({"scan": "nowhere.nii.gz"})
