"""Heads that are larger than the slices that training sees."""

from pathlib import Path

import pytest
from head_scans import scan, write_scan

from pipeline import dry_run
from pipeline.config.schema import Config
from pipeline.data.case import Case
from pipeline.data.cropped_heads import warn_of_cropped_heads
from pipeline.data.statistics import Fingerprint
from pipeline.data_builders import find_cases, prepare_data
from transforms.slice_chain import PreprocessSettings


def config(folder, size):
    patterns = {contrast: f"{{subject}}_{contrast}.nii" for contrast in ("T1", "T2")}
    return Config.model_validate(
        {
            "name": "small",
            "output": str(folder / "run"),
            "data": {"source": "nifti", "folder": folder, "patterns": patterns},
            "split": {"validation": 0, "test": 1},
            "preprocess": {"size": size, "spacing_mm": None, "store": folder / "store", "processes": 1},
            "generator": {"width": 4, "depth": 2},
        }
    )


@pytest.mark.parametrize("size", [32, 64])
def test_run_and_dry_run_warn_of_slices_too_small_for_the_heads(size, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dry_run, "step_pace", lambda *_: (0.05, "this CPU"))
    for subject, contrast in (("a", "T1"), ("b", "T2"), ("c", "T1"), ("c", "T2")):
        write_scan(tmp_path / f"{subject}_{contrast}.nii", scan(contrast))
    settings = config(tmp_path, size)
    for warn in (dry_run.print_dry_run, lambda settings: prepare_data(settings, find_cases(settings), quiet=True)):
        warn(settings)
        lines = [line for line in capsys.readouterr().err.splitlines() if "preprocess.size" in line]
        assert len(lines) == (size == 32)
        for line in lines:
            assert "mm of the head from back to front are cut off, as are parts of 1 of 1 others" in line
            assert "32 pixels show 147 mm; set preprocess.size to 64 or more, or a larger preprocess.spacing_mm" in line


AXIS_LOSSES = [("axial", "52 of 180"), ("coronal", "22 of 150"), ("sagittal", "52 of 180")]


@pytest.mark.parametrize(("axis", "lost"), AXIS_LOSSES)
def test_only_what_slices_show_is_compared_and_the_scan_that_loses_most_is_named(axis, lost, capsys):
    settings = PreprocessSettings(axis, (1.0, 3.0), 128, n4=False, percentiles=None, version=2)
    heads = {"small": [100.0, 131.0, 120.0], "large": [150.0, 180.0, 140.0]}
    fingerprints = {
        Case(name, "", "T1", Path(name)): Fingerprint([], [], [0.5] * 3, [300.0] * 3, head)
        for name, head in heads.items()
    }
    warn_of_cropped_heads(fingerprints, settings)
    assert capsys.readouterr().err.startswith(f"warning: large: {lost} mm of the head")
    warn_of_cropped_heads({Case("picture", "", "T1", Path("a.png")): None}, settings)
    assert capsys.readouterr().err == ""
