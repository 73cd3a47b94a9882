"""A small BIDS data set, the command on it, and what is to be made of it."""

import json
from dataclasses import replace
from pathlib import Path

from negative_model import files_in, negative_model, volume_at

from pipeline.translate import main


def calibrated_model():
    """A model without weights that knows the errors to expect of it."""
    calibration = {"cycle_weight": 0.0, "spread_weight": 1.0, "knots": [[0.0, 0.25]], "subjects": 1, "voxels": 1}
    return replace(negative_model(), calibration=calibration)


def run(*arguments, to="T2"):
    """Make a derivative by the command; `load_model` must give it a model."""
    return main([*map(str, arguments), "--model", "any", "--to", to, "--bids"])


def data_set(root: Path, *scans: str, **description) -> Path:
    """Write a data set with these scans."""
    root.mkdir(parents=True)
    described = {"Name": "Heads", "BIDSVersion": "1.9.0", "DatasetType": "raw", "License": "CC0"} | description
    (root / "dataset_description.json").write_text(json.dumps(described))
    for seed, scan in enumerate(scans):
        volume_at(root / scan, seed)
    return root


SCANS = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_T2w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_acq-fast_run-1_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii",
    "sub-02/ses-b/anat/sub-02_ses-b_part-phase_T1w.nii.gz",
    "sub-02/ses-b/func/sub-02_ses-b_task-rest_T1w.nii.gz",
    "derivatives/other/sub-01/anat/sub-01_desc-brain_T1w.nii.gz",
)
MADE = (
    "sub-01/anat/sub-01_desc-synth_T2w",
    "sub-02/ses-a/anat/sub-02_ses-a_acq-fast_run-1_desc-synth_T2w",
    "sub-02/ses-b/anat/sub-02_ses-b_desc-synth_T2w",
)
OF_THE_SET = (".bidsignore", "README.md", "dataset_description.json")


def sidecar(out: Path, name: str) -> dict:
    """What stands beside a volume."""
    return json.loads((out / f"{name}.json").read_text())


def contents(out: Path) -> dict[str, bytes]:
    """The derivative's files below its subjects' folders."""
    return {name: (out / name).read_bytes() for name in files_in(out) if name.startswith("sub-")}
