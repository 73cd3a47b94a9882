"""Volumes whose content git-annex or Git LFS keeps elsewhere: every command says so in the same words."""

import pytest
from small_run import CONFIGS
from small_volumes import write_volume

from pipeline import explore, run, translate

LAYOUT = ("data.patterns={T1: '{subject}_T1.nii.gz', T2: '{subject}_T2.nii.gz'}", "preprocess.size=32",
          "preprocess.processes=1", "generator.width=4", "discriminator.layers=2", "tracking.mlflow=false",
          "split.test=1", "split.validation=0")  # fmt: skip
TARGET = ".git/annex/objects/xX/7q/SHA256E-s10--0a/SHA256E-s10--0a.nii.gz"


def scans(folder, subjects, fetched):
    for number in range(subjects):
        for contrast in ("T1", "T2"):
            path = folder / f"s{number}_{contrast}.nii.gz"
            if number < fetched:
                write_volume(path, seed=number)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(TARGET)
    return folder


def words(path):
    return f"{path}: its content is not fetched (git-annex keeps it); run `datalad get {path}`"


@pytest.mark.parametrize("command", ["run", "run --dry-run", "explore"])
def test_nothing_is_here(tmp_path, capsys, command):
    data = scans(tmp_path / "bids", 4, 0)
    options = [f"data.folder={data}", *LAYOUT, f"output={tmp_path / 'run'}", f"preprocess.store={tmp_path / 'store'}"]
    door, *flags = command.split()
    flags += ["-o", str(tmp_path / "page")] if door == "explore" else []
    main = {"run": run.main, "explore": explore.main}[door]
    assert main([str(CONFIGS / "nifti.yaml"), *options, *flags]) == 2
    message = capsys.readouterr().err
    assert message == f"error: none of 8 images is here; {words(data / 's0_T1.nii.gz')}, and so for the others\n"


def test_some_are_here(tmp_path, capsys):
    data = scans(tmp_path / "bids", 5, 4)
    options = [f"data.folder={data}", *LAYOUT, f"output={tmp_path / 'run'}", f"preprocess.store={tmp_path / 'store'}"]
    assert explore.main([str(CONFIGS / "nifti.yaml"), *options, "-o", str(tmp_path / "page"), "--quiet"]) == 0
    message = capsys.readouterr().err
    assert message.startswith(
        f"warning: 2 of 10 images are not here; {words(data / 's4_T1.nii.gz')}, and so for the others\n"
    )


def test_translate_says_it_of_each(tmp_path, capsys, model):
    data = scans(tmp_path / "bids", 2, 1)
    arguments = ["-i", str(data), "-o", str(tmp_path / "out"), "--model", "models:/m@best", "--to", "T2"]
    assert translate.main([*arguments, "--dry-run"]) == 0
    assert f"refuse: {words(data / 's1_T1.nii.gz')}" in capsys.readouterr().out
    assert translate.main([*arguments, "--quiet"]) == 3
    assert f"error: {words(data / 's1_T1.nii.gz')}\n" in capsys.readouterr().err


def test_translate_says_it_of_a_series_of_dicom(tmp_path, capsys, model):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").symlink_to(TARGET)
    arguments = ["-i", str(tmp_path / "series"), "-o", str(tmp_path / "out"), "--model", "m", "--to", "T2"]
    assert translate.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {words(tmp_path / 'series' / '1.dcm')}\n"
