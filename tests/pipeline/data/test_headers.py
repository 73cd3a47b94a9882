import nibabel as nib
import numpy as np
import pytest

from pipeline.data.case import Case
from pipeline.data.headers import MAX_HEADERS, header_grids


def write(path, shape, affine):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int8), affine), path)
    return Case(path.stem, "", "T1", path)


def test_a_grid_is_that_of_the_body_however_the_file_runs(tmp_path):
    posterior_superior_right = np.array([[0, 0, 1.2, 0], [-0.9, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 0, 1.0]])
    [grid] = header_grids([write(tmp_path / "a.nii", (10, 20, 30), posterior_superior_right)])
    assert grid.voxel_mm == pytest.approx((1.2, 0.9, 0.8))
    assert grid.field_mm == pytest.approx((36, 9, 16))
    assert [grid.field_along(axis) for axis in ("sagittal", "coronal", "axial")] == pytest.approx([36, 9, 16])


def test_of_many_volumes_some_are_read_and_what_cannot_be_is_passed_over(tmp_path):
    case = write(tmp_path / "a.nii", (3, 4, 5), np.eye(4))
    (tmp_path / "b.nii").write_bytes(b"damaged")
    bad = Case("b", "", "T1", tmp_path / "b.nii")
    assert len(list(header_grids([case] * 500))) == MAX_HEADERS
    assert len(list(header_grids([bad, case, Case("c", "", "T1", tmp_path / "none.nii")]))) == 1
    assert list(header_grids([])) == []
