import nibabel as nib
import numpy as np
import pytest

from transforms.monai_transforms import BiasFieldd, LoadVolumed, ScaleForegroundd

AFFINE = np.array([[0, 0, -1.5, 40], [-1, 0, 0, 30], [0, 2, 0, -20], [0, 0, 0, 1.0]])  # PSL


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


@pytest.mark.parametrize("type_range", [{}, {"image_type_range": None}])  # a volume, and a floating-point picture
def test_scaling_by_a_types_range_that_is_not_known_is_an_error(type_range):
    message = r"8 or 16 bit; set preprocess.scaling: percentiles \[ScaleForegroundd, key 'image'\]"
    with pytest.raises(ValueError, match=message):
        ScaleForegroundd("image", None)({"image": np.eye(4)[..., None]} | type_range)


def test_an_error_names_transform_and_key():
    constant = np.full((4, 4, 4), 3.0, np.float32)
    for step in (BiasFieldd("scan"), ScaleForegroundd("scan", (1, 99))):
        with pytest.raises(ValueError, match=rf"every voxel .* 3: .* \[{type(step).__name__}, key 'scan'\]"):
            step({"scan": constant, "scan_affine": np.eye(4)})
    with pytest.raises(ValueError, match=r"nowhere\.nii\.gz.* \[LoadVolumed, key 'scan'\]"):
        LoadVolumed("scan")({"scan": "nowhere.nii.gz"})
