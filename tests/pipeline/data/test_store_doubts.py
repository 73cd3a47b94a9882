import nibabel as nib
import numpy as np
import pytest
from small_volumes import write_volume

from pipeline.data.case import Case
from pipeline.data.pair_store import build_pair_store
from pipeline.data.store import build_store

SETTINGS = {
    "axis": "axial", "spacing_mm": None, "size": 24, "n4": False, "percentiles": [0.5, 99.5], "min_foreground": 0.1,
}  # fmt: skip


def doubtful(path, seed):
    """A volume with one voxel that is no number."""
    sound = nib.load(write_volume(path, seed))
    data = sound.get_fdata(dtype=np.float32)
    data[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(data, sound.affine), path)
    return path


@pytest.fixture
def cases(tmp_path):
    return [
        Case("s0", "", contrast, doubtful(tmp_path / f"{contrast}.nii.gz", side))
        for side, contrast in enumerate(("T1", "T2"))
    ]


def each_is_one_clean_line(said, cases):
    lines = sorted(said.splitlines())
    assert len(lines) == len(cases) and ".py" not in said
    for line, case in zip(lines, sorted(cases, key=lambda case: str(case.path)), strict=True):
        assert line.startswith(f"warning: {case.path}: ")
    return True


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_doubtful_about_a_volume_is_one_line(cases, tmp_path, capfd, processes):
    build_store(cases, tmp_path / "store", SETTINGS, processes=processes, on_bad_volume="stop", quiet=True)
    assert each_is_one_clean_line(capfd.readouterr().err, cases)


def test_what_is_doubtful_about_a_pair_is_a_line_each(cases, tmp_path, capfd):
    settings = {**SETTINGS, "register_pairs": False}
    how = {"cache": tmp_path / "cache", "processes": 1, "on_bad_volume": "stop", "quiet": True}
    build_pair_store([tuple(cases)], tmp_path / "store", settings, **how)
    assert each_is_one_clean_line(capfd.readouterr().err, cases)
