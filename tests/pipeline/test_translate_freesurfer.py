"""FreeSurfer's volumes through the commands: translated as NIfTI would be, and found as training data."""

import nibabel as nib
import numpy as np
from negative_model import files_in, run, volume_at

from pipeline.data.sources.nifti_folder import nifti_cases


def test_an_mgz_becomes_a_nifti_on_its_grid(tmp_path, model, capsys):
    source = nib.load(volume_at(tmp_path / "plain" / "b.nii.gz"))
    voxels = np.asarray(source.dataobj).astype(np.int16)
    nib.save(nib.MGHImage(voxels, source.affine), tmp_path / "in.mgz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in.mgz").rename(tmp_path / "in" / "b.mgz")
    assert run("-i", tmp_path / "plain", "-o", tmp_path / "one") == 0
    assert run("-i", tmp_path / "in", "-o", tmp_path / "two") == 0
    assert files_in(tmp_path / "two") == ["b.nii.gz"]
    first, second = (nib.load(tmp_path / out / "b.nii.gz") for out in ("one", "two"))
    assert np.array_equal(first.get_fdata(), second.get_fdata()) and np.allclose(first.affine, second.affine, atol=1e-4)
    assert second.header["sform_code"] == second.header["qform_code"] == 1 and second.header.get_xyzt_units()[0] == "mm"
    capsys.readouterr()
    assert run("-i", tmp_path / "in", "-o", tmp_path / "two") == 0
    assert "1 skipped" in capsys.readouterr().out
    assert run("-i", tmp_path / "in" / "b.mgz", "-o", tmp_path / "x.mgz") == 2  # written as NIfTI alone


def test_an_mgz_is_a_case_of_its_subject(tmp_path):
    for subject in ("s1", "s2"):
        for contrast in ("T1", "T2"):
            (tmp_path / subject / "mri").mkdir(parents=True, exist_ok=True)
            (tmp_path / subject / "mri" / f"{contrast}.mgz").touch()
    cases = nifti_cases(tmp_path, {"T1": "{subject}/mri/T1.mgz", "T2": "{subject}/mri/T2*"})
    assert [(case.subject, case.contrast) for case in cases] == [
        ("s1", "T1"), ("s1", "T2"), ("s2", "T1"), ("s2", "T2"),
    ]  # fmt: skip
    assert cases[0].name == "s1_T1"
