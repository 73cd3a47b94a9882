import json
from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from ixi_like import centred_affine, ixi_t1, write_ixi
from PIL import Image
from small_volumes import ellipsoid, write_volume

from pipeline.data.slice_cache import extract
from pipeline.exploration.image_statistics import CELL_MM, LONGEST_PICTURE, examine, grid_of, lattice_points
from transforms.slice_chain import PreprocessSettings, slice_chain

CHAIN = PreprocessSettings(axis="axial", spacing_mm=None, size=24, n4=False, percentiles=(0.5, 99.5))


def look(path, min_foreground=0.1, **changes):
    return examine(path, replace(CHAIN, **changes), min_foreground)


def save(path, voxels, affine=None, slope=None):
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    if slope:
        image.header.set_slope_inter(*slope)
    nib.save(image, path)
    return path


head = partial(ellipsoid, darkest=1)  # no voxel is 0


def test_the_grid_of_an_ixi_t1_is_told_in_the_files_order_and_in_the_bodys():
    image = ixi_t1(scale=8)
    grid = grid_of(image.shape, image.affine)
    assert (grid.shape, grid.orientation) == ((32, 32, 19), "PSR")
    assert grid.spacing_mm == pytest.approx((7.5, 7.5, 9.6))
    assert grid.oblique_degrees == pytest.approx(8)
    assert grid.shape_ras == (19, 32, 32) and grid.spacing_ras_mm == pytest.approx((9.6, 7.5, 7.5))


@pytest.mark.parametrize(
    "changes", [{}, {"spacing_mm": (2.0, 1.0)}, {"axis": "coronal"}, {"version": 2, "spacing_mm": (2.0, 1.0)}]
)
def test_an_image_is_normalised_and_cut_as_training_does(changes, tmp_path):
    path = write_volume(tmp_path / "a.nii.gz")
    statistics = look(path, **changes)
    extract(path, tmp_path / "store", replace(CHAIN, **changes), 0.1)
    [note] = (tmp_path / "store").glob("*.json")
    stored = json.loads(note.read_text())
    assert (statistics.slices, statistics.low, statistics.high) == (stored["count"], stored["low"], stored["high"])
    chained = slice_chain(replace(CHAIN, **{**changes, "size": 64}))({"image": path})
    inside = chained["image"][chained["image_foreground"]]
    assert statistics.histogram == pytest.approx(np.histogram(inside, bins=128, range=(-1, 1))[0] / inside.size)


def test_intensities_are_told_in_the_files_units(tmp_path):
    voxels = head()
    voxels[0, 0, :5] = 0
    statistics = look(save(tmp_path / "a.nii", voxels))
    assert (statistics.lowest, statistics.highest) == (voxels.min(), voxels.max())
    assert statistics.zeros == pytest.approx(5 / voxels.size)
    assert statistics.stored_as == "int16" and (statistics.slope, statistics.intercept) == (1, 0)
    assert list(statistics.percentiles) == sorted(statistics.percentiles)
    assert statistics.percentiles[2] > 400  # of the head


def test_slope_and_intercept_of_the_file_are_told(tmp_path):
    statistics = look(save(tmp_path / "a.nii.gz", head(), slope=(0.5, -7)))
    assert (statistics.stored_as, statistics.slope, statistics.intercept) == ("int16", 0.5, -7)


def test_voxels_that_are_no_numbers_are_counted_by_kind(tmp_path):
    voxels = head().astype(np.float32)
    voxels[0, 0, :3], voxels[1, 0, :2] = np.nan, (np.inf, -2e30)
    statistics = look(save(tmp_path / "a.nii", voxels))
    assert (statistics.nan, statistics.inf) == (3, 2)
    assert statistics.warning.startswith("5 NaN or infinite voxels were replaced")
    assert str(tmp_path) not in statistics.warning


def test_a_header_that_only_nibabel_minds_is_no_failure(tmp_path):
    content = bytearray(nib.Nifti1Image(head(), np.eye(4)).to_bytes())
    content[112:120] = np.array([2, np.nan], np.float32).tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(content)
    statistics = look(tmp_path / "a.nii")
    assert (statistics.stored_as, statistics.warning) == ("unknown", "its scl_inter is nan, taken as 0")


def test_the_checksum_is_of_voxels_not_of_files(tmp_path):
    voxels = head()
    first = look(save(tmp_path / "a.nii.gz", voxels)).checksum
    turned = save(tmp_path / "b.nii", voxels[::-1].astype(np.float32), np.diag([-1.0, 1, 1, 1]))
    assert look(turned).checksum == first
    other = voxels.copy()
    other[3, 3, 3] += 1
    assert look(save(tmp_path / "c.nii.gz", other)).checksum != first


def test_what_the_slices_cut_off_is_told(tmp_path):
    path = save(tmp_path / "a.nii", head((40, 40, 12)))
    assert look(path, size=40).cut_off == 0
    assert look(path, size=64).cut_off == 0
    assert 0.2 < look(path, size=24).cut_off < 0.8
    assert look(path, size=64, min_foreground=0.99).slices == 0


def test_lattice_points_are_those_of_the_space_not_of_the_grid():
    shape = (39, 31, 21)
    plain = centred_affine(shape, np.eye(3), (4, 5, 6), 0)
    points = lattice_points(np.ones(shape, bool), plain)
    assert points.min(axis=0).tolist() == [-7, -7, -6] and points.max(axis=0).tolist() == [7, 7, 6]
    assert len(points) == 15 * 15 * 13 and CELL_MM == 10
    turned = plain @ np.array([[-1, 0, 0, 38], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert set(map(tuple, lattice_points(np.ones(shape, bool), turned))) == set(map(tuple, points))
    half = np.zeros(shape, bool)
    half[19:] = True
    assert lattice_points(half, plain)[:, 0].min() == 0
    assert len(lattice_points(np.zeros(shape, bool), plain)) == 0
    assert lattice_points(np.ones((90, 90, 90), bool), np.diag([100.0, 100, 100, 1])) is None  # of an impossible size


def test_the_heads_of_an_ixi_pair_lie_in_one_place(tmp_path):
    paths = write_ixi(tmp_path, scale=4)
    first, second = (set(map(tuple, look(path, size=64).cells.tolist())) for path in paths)
    assert len(first & second) > 0.9 * min(len(first), len(second)) > 1000


def test_planes_are_in_true_proportions(tmp_path):
    path = save(tmp_path / "a.nii", head((20, 26, 12)), np.diag([1.0, 1, 3, 1]))
    planes = look(path).planes
    assert {name: plane.shape for name, plane in planes.items()} == {
        "axial": (round(20 / 26 * LONGEST_PICTURE), LONGEST_PICTURE),
        "coronal": (round(20 / 36 * LONGEST_PICTURE), LONGEST_PICTURE),
        "sagittal": (round(26 / 36 * LONGEST_PICTURE), LONGEST_PICTURE),
    }
    assert all(plane.dtype == np.uint8 and plane.max() > 200 and plane[0, 0] < 20 for plane in planes.values())


def test_a_picture_has_no_grid(tmp_path):
    Image.fromarray((head()[:, :, 6].T % 256).astype(np.uint8)).save(tmp_path / "a.png")
    statistics = look(tmp_path / "a.png", percentiles=None)
    assert statistics.grid is None and statistics.cells is None and statistics.shape == (20, 26)
    assert statistics.stored_as == "8 bit" and (statistics.low, statistics.high) == (0, 255)
    assert list(statistics.planes) == ["axial"] and statistics.slices == 1


def test_a_file_that_cannot_be_read_is_refused_as_the_run_refuses_it(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.nii\.gz: truncated"):
        look(path)
