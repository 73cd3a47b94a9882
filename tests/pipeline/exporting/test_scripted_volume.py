"""The chain in TorchScript against the chain itself, on volumes as they arrive."""

import nibabel as nib
import numpy as np
import pytest
import torch
import volume_cases_doubtful
import volume_cases_good
from head_scans import scan, slanted_left_posterior_affine
from negative_model import model_of
from nibabel.affines import voxel_sizes
from torch import nn

from pipeline.exporting.bundle import scripted_translator
from pipeline.exporting.scripted_volume import finite
from pipeline.inference.translator import translate
from transforms.io.nifti import read_with_warnings
from transforms.io.nifti_checks import finite_float32
from transforms.spatial import from_canonical, to_canonical

RANGE = 890.0
SETTINGS = {
    "own spacing": {"size": 32},
    "coarser, slices larger than the square": {"size": 16, "axis": "coronal", "spacing_mm": (6.0, 7.0)},
    "finer": {"size": 64, "axis": "sagittal", "spacing_mm": (4.0, 5.0), "percentiles": (0.5, 99.5)},
}
GRIDS = {  # shape and spacing in mm
    "slanted": ((30, 36, 20), (4.6, 5.0, 8.0)),
    "cut at the border": ((24, 24, 40), (5.0, 6.0, 4.0)),
    "anisotropic": ((50, 60, 12), (3.2, 3.2, 15.0)),
}
CASES = {case.name: case for case in (*volume_cases_good.GOOD, *volume_cases_doubtful.DOUBTFUL)}
SOME_CASES = ("one voxel thick, axis 0", "NaN voxels", "infinite voxels", "slope -1 and intercept 900", "turned by 45°")


class Smoothed(nn.Module):
    """Bright becomes dark, by the slice and its neighbours, and within each slice by its mean."""

    stride = 4

    def __init__(self, neighbours=0, neighbour_mm=()):
        super().__init__()
        self.neighbours, self.neighbour_mm = neighbours, neighbour_mm

    def forward(self, slices):
        shares = torch.arange(1.0, slices.shape[1] + 1)[:, None, None]
        mean = (slices * shares).sum(1, keepdim=True) / shares.sum()
        return torch.tanh(mean.mean((2, 3), keepdim=True) - mean)


@pytest.fixture(scope="module", params=SETTINGS)
def pair(request):
    """A model, and the same in TorchScript."""
    neighbours = {"finer": (1, (4.2, 9.0))}.get(request.param, ())
    settings = {"percentiles": (1.0, 99.0), "version": 2, **SETTINGS[request.param]}
    model = model_of(Smoothed(*neighbours), 10.0, 10.0 + RANGE, **settings)
    return model, scripted_translator(model, "T2")


def psnr_of(pair, source):
    """How near TorchScript comes to the package on a file or an image."""
    model, script = pair
    voxels, affine, *_ = read_with_warnings(source)
    canonical, ras_affine = to_canonical(voxels, affine)
    image = torch.from_numpy(np.ascontiguousarray(canonical))[None, None]
    result = script(image, torch.tensor(voxel_sizes(ras_affine)))
    expected = translate(source, model, "T2").get_fdata()
    assert expected.std() > 0
    error = from_canonical(result[0, 0].numpy(), affine) - expected
    return 20 * np.log10(RANGE / max(1e-9, np.sqrt(np.mean(error**2))))


@pytest.mark.parametrize(
    ("contrast", "background"), [("T1", "noise"), ("T2", "noise"), ("T2", "masked"), ("T1", "empty planes")]
)
@pytest.mark.parametrize("grid", GRIDS)
def test_heads_on_any_grid_come_out_as_the_package_makes_them(pair, grid, background, contrast):
    shape, spacing = GRIDS[grid]
    affine = slanted_left_posterior_affine(shape, spacing)
    voxels = scan(contrast, shape=shape, affine=affine)
    if background == "masked":
        voxels[voxels < 60] = 0
    if background == "empty planes":
        voxels[:3] = voxels[:, :2] = 0
    assert psnr_of(pair, nib.Nifti1Image(voxels, affine)) > 120


@pytest.mark.parametrize("name", SOME_CASES)
def test_odd_volumes_come_out_as_the_package_makes_them(pair, name, tmp_path):
    assert psnr_of(pair, CASES[name].write(tmp_path)) > 120


def test_volumes_of_a_batch_do_not_mix(pair):
    _, script = pair
    images = torch.from_numpy(np.stack([scan(contrast) for contrast in ("T1", "T2")]))[:, None]
    spacing = torch.tensor([[4.5, 4.6, 4.8], [2.5, 3.0, 3.2]])
    together = script(images, spacing)
    for index in range(2):
        assert torch.equal(together[index : index + 1], script(images[index : index + 1], spacing[index]))


def test_values_that_are_no_numbers_become_the_lowest_and_highest(pair):
    voxels = torch.from_numpy(scan("T1"))[None, None]
    voxels[0, 0, 5, 5, 5:7], voxels[0, 0, 18, 20, 16] = voxels.min(), voxels.max()
    broken = voxels.clone()
    broken[0, 0, 5, 5, 5:7], broken[0, 0, 18, 20, 16] = torch.tensor([torch.nan, -torch.inf]), torch.inf
    assert torch.equal(pair[1](broken), pair[1](voxels))


def test_what_counts_as_infinite_is_what_the_package_takes_for_it():
    voxels = scan("T1", shape=(8, 8, 8))
    voxels[0, 0] = np.nan, np.inf, -np.inf, 2e30, -2e30, 3e38, -3e38, 500
    expected, _ = finite_float32(nib.Nifti1Image(voxels, np.eye(4)), voxels.shape, "scan")
    script = torch.jit.script(finite)
    assert np.array_equal(script(torch.from_numpy(voxels)).numpy(), expected) and np.abs(expected).max() < 1000
    with pytest.raises(torch.jit.Error, match="every voxel is NaN or infinite"):
        script(torch.full((4, 4, 4), torch.nan))


def test_a_volume_of_one_value_is_refused(pair):
    with pytest.raises(torch.jit.Error, match="every voxel has the same value"):
        pair[1](torch.ones(1, 1, 8, 8, 8))
