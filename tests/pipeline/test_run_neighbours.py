"""A run whose generators see neighbouring slices, from its training to a translated volume with its uncertainty."""

import json

import nibabel as nib
import numpy as np
from small_run import QUICK, latest, phantom_run, without_pictures, workshop

from pipeline.translate import main as translate_main

NEIGHBOURS = (
    *QUICK, "preprocess.neighbours=1", "generator={type: skip, width: 4, blocks: 1}", "method.lookup_weight=0",
    "evaluation.translate=false",
)  # fmt: skip


def test_a_run_with_neighbours_trains_evaluates_and_translates(tmp_path, capsys):
    with without_pictures():
        assert phantom_run(tmp_path / "run", *NEIGHBOURS) == 0
    weights = latest(tmp_path / "run")["translators"]["T2"]
    assert weights["network.down.0.0.weight"].shape == (4, 3, 5, 5)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores
    source = next((workshop() / "phantom").rglob("*_T1.nii.gz"))
    command = ["-i", str(source), "-o", str(tmp_path / "out.nii.gz"), "--model", str(tmp_path / "run"), "--to", "T2"]
    assert translate_main([*command, "--uncertainty", "--device", "cpu", "--quiet"]) == 0
    before, after = nib.load(source), nib.load(tmp_path / "out.nii.gz")
    assert after.shape == before.shape and np.isfinite(after.get_fdata()).all() and np.ptp(after.get_fdata()) > 0

    # Another number of neighbours is another run, and the weights of this one do not fit it.
    capsys.readouterr()
    others = ("preprocess.neighbours=2", *NEIGHBOURS[:2], *NEIGHBOURS[3:])
    assert phantom_run(tmp_path / "run", *others) == 2
    assert "preprocess.neighbours: 1 there, 2 now" in capsys.readouterr().err
    assert phantom_run(tmp_path / "other", *others, f"training.start_from={tmp_path / 'run'}") == 2
    assert "preprocess.neighbours" in capsys.readouterr().err


def test_a_dry_run_plans_with_neighbours(tmp_path, capsys):
    assert phantom_run(tmp_path / "run", *NEIGHBOURS, "--dry-run", quiet=False) == 0
    assert "memory" in capsys.readouterr().out and not (tmp_path / "run").exists()
