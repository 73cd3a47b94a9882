from pathlib import Path

import nibabel
import numpy as np
import pytest

from transforms.label_maps import UNCOUNTED, read_label_map, slices_on_grid

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def saved(folder: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path = folder / "labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def blocks() -> np.ndarray:
    """Labels 2 and 1001 on 0, different from every side."""
    values = np.zeros((6, 7, 8), np.int16)
    values[1:3, 2:6, 3:5] = 2
    values[4, 1, 6] = 1001
    return values


def test_labels_are_indexed_in_ascending_order_and_zero_stays_zero(tmp_path):
    label_map, affine = read_label_map(saved(tmp_path, blocks()))
    assert label_map.labels == (2, 1001) and label_map.indices.dtype == np.uint8
    np.testing.assert_array_equal(label_map.indices, np.select([blocks() == 2, blocks() == 1001], [1, 2], 0))
    np.testing.assert_array_equal(affine, AFFINE)


def test_axes_run_to_right_anterior_and_superior_whatever_the_file(tmp_path):
    flipped = np.diag([-2.0, 3.0, 4.0, 1.0])
    flipped[0, 3] = 10
    label_map, affine = read_label_map(saved(tmp_path, blocks()[::-1], flipped))
    np.testing.assert_array_equal(affine, AFFINE)
    np.testing.assert_array_equal(label_map.indices == 1, blocks() == 2)


def test_a_mask_without_a_voxel_has_no_label(tmp_path):
    label_map, _ = read_label_map(saved(tmp_path, np.zeros((3, 3, 3), np.uint8)))
    assert label_map.labels == () and not label_map.indices.any()


def test_labels_beyond_the_first_64_are_not_counted(tmp_path):
    label_map, _ = read_label_map(saved(tmp_path, np.arange(70, dtype=np.int16).reshape(7, 5, 2)))
    assert label_map.labels == tuple(range(1, 65))
    assert (label_map.indices == UNCOUNTED).sum() == 5


@pytest.mark.parametrize("value", [0.5, -1, np.nan, 70_000])
def test_what_is_no_label_is_refused_with_the_file_and_the_rule(tmp_path, value):
    values = blocks().astype(np.float32)
    values[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"labels.nii.gz: no label map.*whole numbers from 0 to 65,535"):
        read_label_map(saved(tmp_path, values))


def test_labels_move_with_the_transform_and_are_zero_beyond_their_field_of_view(tmp_path):
    label_map, affine = read_label_map(saved(tmp_path, blocks()))
    to_map = np.eye(4)
    to_map[:3, 3] = [2, 0, 0]  # a point of the new grid lies one voxel further to the right in the map
    moved = slices_on_grid(label_map, affine, to_map, (6, 7, 8), AFFINE, "axial")
    expected = np.zeros_like(label_map.indices)
    expected[:-1] = label_map.indices[1:]
    assert moved.labels == (2, 1001) and moved.indices.flags.c_contiguous
    np.testing.assert_array_equal(moved.indices, expected.transpose(2, 0, 1))
