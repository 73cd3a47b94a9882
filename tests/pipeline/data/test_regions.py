import nibabel
import numpy as np
import pytest
from head_scans import AFFINE, SHAPE
from small_pairs import CHAIN, pair

from pipeline.data.pairs import PairReader
from pipeline.data.regions import with_regions
from transforms.slices import stack_slices

ELSEWHERE = AFFINE.copy()
ELSEWHERE[:3, 3] += [9.0, 0, 0]  # two voxels further to the right


@pytest.fixture
def views(tmp_path):
    """The views of two scans on grids of their own, by their headers."""
    reader = PairReader(CHAIN, 4, register=False, registrations=tmp_path)
    first, second, _ = reader.read(pair(tmp_path, affine=ELSEWHERE))
    return first, second


def mask(folder, affine, shape=SHAPE):
    """Write a block of label 1 and return its path and the centre in world coordinates."""
    values = np.zeros(shape, np.uint8)
    values[14:20, 20:26, 14:20] = 1
    nibabel.save(nibabel.Nifti1Image(values, affine), folder / "lesion.nii.gz")
    return folder / "lesion.nii.gz", affine[:3, :3] @ [16.5, 22.5, 16.5] + affine[:3, 3]


def centre_mm(view):
    """The centre of the voxels of label 1 in a view's world coordinates."""
    volume = stack_slices(view.regions["lesion"].indices, view.source.axis)
    return view.source.affine[:3, :3] @ np.argwhere(volume == 1).mean(axis=0) + view.source.affine[:3, 3]


TO_SECOND = np.eye(4)
TO_SECOND[1, 3] = 13.8  # mm: three voxels


@pytest.mark.parametrize(
    ("affine", "shape", "from_first", "from_second"),
    [
        (AFFINE, SHAPE, 0, 13.8),  # of the first scan: it moves with it onto the second's grid
        (ELSEWHERE, SHAPE, -13.8, 0),  # of the second
        (AFFINE, (36, 44, 36), 0, 0),  # of neither: where its header says
    ],
)
def test_a_mask_follows_the_registration_of_the_scan_whose_grid_it_has(
    views, tmp_path, affine, shape, from_first, from_second
):
    path, centre = mask(tmp_path, affine, shape)
    (first, second), notes = with_regions(views, TO_SECOND, {"lesion": path})
    assert notes == []
    assert first.regions["lesion"].indices.shape == first.real.shape
    np.testing.assert_allclose(centre_mm(first), centre + np.array([0, from_first, 0]), atol=0.01)
    np.testing.assert_allclose(centre_mm(second), centre + np.array([0, from_second, 0]), atol=0.01)


def test_a_file_that_cannot_be_used_is_a_note_and_no_error(views, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    good, _ = mask(tmp_path, AFFINE)
    (first, _), notes = with_regions(views, np.eye(4), {"bad": tmp_path / "bad.nii.gz", "lesion": good})
    assert list(first.regions) == ["lesion"]
    assert len(notes) == 1 and "region bad" in notes[0] and "bad.nii.gz" in notes[0]


def test_labels_beyond_the_first_64_are_noted(views, tmp_path):
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 80
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), AFFINE), tmp_path / "many.nii.gz")
    (first, _), notes = with_regions(views, np.eye(4), {"many": tmp_path / "many.nii.gz"})
    assert "only its first 64 labels" in notes[0] and len(first.regions["many"].labels) == 64
