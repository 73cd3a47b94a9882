import nibabel as nib
import numpy as np
import pytest
from small_volumes import write_volume

from pipeline.data.case import Case
from pipeline.data.pair_cache import PairSettings, build_pair_cache
from pipeline.data.slice_cache import CacheOptions, build_slice_cache
from transforms.slice_chain import PreprocessSettings

SETTINGS = PreprocessSettings("axial", None, 24, n4=False, percentiles=(0.5, 99.5))


def doubtful(path, seed):
    """A volume with one voxel that is no number."""
    image = nib.load(write_volume(path, seed))
    data = image.get_fdata(dtype=np.float32)
    data[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(data, image.affine), path)
    return path


@pytest.fixture
def cases(tmp_path):
    return [
        Case("s0", "", contrast, doubtful(tmp_path / f"{contrast}.nii.gz", side))
        for side, contrast in enumerate(("T1", "T2"))
    ]


def each_is_one_clean_line(printed, cases):
    lines = sorted(printed.splitlines())
    assert len(lines) == len(cases) and ".py" not in printed
    for line, case in zip(lines, sorted(cases, key=lambda case: str(case.path)), strict=True):
        assert line.startswith(f"warning: {case.path}: ")
    return True


def test_what_is_doubtful_about_a_volume_is_one_line(cases, tmp_path, capfd):
    build_slice_cache(cases, CacheOptions(tmp_path / "store", 1, "stop", quiet=True), SETTINGS, 0.1)
    assert each_is_one_clean_line(capfd.readouterr().err, cases)


def test_what_is_doubtful_about_a_pair_is_a_line_each(cases, tmp_path, capfd):
    settings = PairSettings(SETTINGS, 0.1, register=False)
    options = CacheOptions(tmp_path / "store", 1, "stop", quiet=True)
    build_pair_cache([tuple(cases)], options, settings, tmp_path / "cache")
    assert each_is_one_clean_line(capfd.readouterr().err, cases)
