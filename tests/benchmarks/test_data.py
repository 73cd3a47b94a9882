"""The data path's benchmark: both sides compute the same where they can, and every call of the loader other slices."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from small_volumes import write_volume

from benchmarks import data
from transforms.slice_chain import slice_chain
from transforms.slices import stack_slices

AFFINES = {
    "as IXI is stored": [[0, 0, 1.2, -90], [-0.9375, 0, 0, 120], [0, 0.9375, 0, -120], [0, 0, 0, 1]],
    "coarse and fine": [[-2.1, 0, 0, 5], [0, 0.5, 0, 3], [0, 0, 3.3, -7], [0, 0, 0, 1]],
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(data, "SETTINGS", replace(data.SETTINGS, size=48, version=1))


@pytest.fixture(params=AFFINES)
def volume(request, tmp_path):
    return write_volume(tmp_path / "head.nii.gz", shape=(40, 51, 34), affine=np.array(AFFINES[request.param]))


@pytest.mark.parametrize(("resized", "share"), [(True, 1e-6), (False, 1e-5)])  # its coordinates are float32
def test_extraction_is_monais_to_a_millionth_of_the_range(small, volume, resized, share):
    ours = slice_chain(data.SETTINGS)({"image": str(volume)})
    shape, affine = data.grid_of(str(volume))
    assert shape == stack_slices(ours["image_whole_foreground"], "axial").shape
    assert_allclose(affine, ours["image_affine"], rtol=0, atol=1e-6)
    chain = data.monai_chain(shape, affine, resized=resized, limits=ours["image_range"])
    theirs = chain({"image": str(volume)})["image"]
    slices = stack_slices(ours["image"], "axial")
    assert theirs.shape == (1, 48, 48, shape[2]) and 0.2 < slices.std() < 1.2
    assert_allclose(slices, theirs[0].numpy(), rtol=0, atol=2 * share)
