"""A model card says what the run's folder knows, and leaves out what it does not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from negative_model import model_of
from torch import nn

from networks.lookup_start import LookupStart
from networks.skip import SkipGenerator
from pipeline.exporting.bundle import lost_in_bundle
from pipeline.exporting.card import model_card, own_figures
from pipeline.inference.model import load_model
from pipeline.inference.model_address import run_that_evaluates

PLACE = {"source": "T1", "target": "T2", "protocol": "own", "unit": "volume", "region": "foreground"}
SCORES = {
    "protocols": {"own": "intensities in [-1, 1], data range 2"},
    "notes": ["the lookup was fitted on pairs"],
    "summary": [
        {**PLACE, "system": "model", "metric": "psnr", "mean": 17.224, "sd": 0.17, "n": 4},
        {**PLACE, "system": "copy", "metric": "psnr", "mean": 9.85, "sd": None, "n": 4},
        {**PLACE, "system": "copy", "metric": "ssim", "mean": None, "sd": None, "n": 0},
        {**PLACE, "system": "model", "metric": "mae", "mean": "inf", "sd": None, "n": 4},
        {**PLACE, "system": "model", "metric": "psnr", "mean": 1.0, "sd": 0.1, "n": 4, "region": "image"},
        {**PLACE, "system": "model", "metric": "psnr", "mean": 2.0, "sd": 0.1, "n": 4, "target": "T1"},
    ],
}


@pytest.fixture
def model():
    return model_of(nn.Conv2d(1, 1, 1), 0.0, 812.5, version=2, percentiles=(0.5, 99.5), spacing_mm=(1.0, 3.0))


@pytest.fixture
def trained(model, tmp_path):
    """The model in its run's folder."""
    contents = {
        "scores.json": SCORES,
        "run.json": {"steps": 3800, "batch_size": 2, "version": "0.1.0", "configuration": "1f"},
        "split.json": {"train": {"T1": ["anna", "bert"], "T2": ["carl"]}, "validation": ["dora"], "test": ["emil"]},
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "config.yaml").write_text(
        "data: {source: nifti}\ngenerator: {type: skip}\nsplit: {pairing: unpaired}\n"
    )
    return replace(model, folder=tmp_path)


def test_a_card_says_what_the_run_knows(trained):
    card = model_card(trained, "T2")
    for text in (
        *("# T1 to T2", "Not for clinical use", "- source: nifti", "2 in T1, 1 in T2 (unpaired)"),
        *("- resampled to 1 mm within slices and 3 mm between", "percentiles 0.5 and 99.5", "0 to 812.5"),
        *("tested on: 1 subject", "3,800 of batch 2", "skip"),
        *("data range 2", "the lookup was fitted on pairs", "test: 4 subjects", trained.identity("T2")),
        *("| model | 17.22 ± 0.17 |  |  |", "| copy | 9.85 |  |  |", "lesions"),
    ):
        assert text in card, text
    assert "1.0 ±" not in card and "2.0 ±" not in card  # of another region, and of the other direction
    assert not any(name in card for name in ("anna", "dora", str(trained.folder)))
    assert own_figures(trained, "T2") == {"psnr": 17.224}


def test_a_card_says_what_a_generator_starts_from(model):
    start = LookupStart(SkipGenerator(1, 2), with_box=True)
    start.box_share.fill_(0.75)
    text = (
        "- generator starts from: the context lookup (25%) and the model in the box (75%; synthetic pairs, no scan); "
        "a translation is 75% of this start, 25% its correction\n"
    )
    assert text in model_card(replace(model, translators={"T2": start}), "T2")
    assert "starts from" not in model_card(model, "T2")


def test_the_boxs_card_says_that_its_scans_are_synthetic():
    card = model_card(load_model("box", "cpu"), "T2")
    assert "- trained on: 300 synthetic scans, drawn from one atlas without any real scan, in T1" in card


def test_a_model_of_the_boxs_name_is_not_taken_for_it(model):
    assert "synthetic scans" not in model_card(replace(model, origin="pix2pix box"), "T2")


def test_a_card_leaves_out_what_is_not_known(model, trained):
    assert "## Figures" not in model_card(model, "T2") and "Not for clinical use" in model_card(model, "T2")
    for path in trained.folder.iterdir():
        path.write_text("{ damaged")
    assert model_card(trained, "T2").replace(str(trained.folder), "") == model_card(model, "T2")


@pytest.mark.parametrize("lacking", [True, False])
def test_figures_and_steps_of_a_run_that_trained_on_since_are_left_out_and_said_to_be_lost(trained, lacking):
    record = json.loads((trained.folder / "run.json").read_text()) | {"scores_outdated": True}
    if lacking:  # as where an evaluation begins anew
        del record["configuration"], record["scores_outdated"]
    assert "figures" not in " ".join(lost_in_bundle(trained, "T2"))
    (trained.folder / "run.json").write_text(json.dumps(record))
    card = model_card(trained, "T2")
    assert "## Figures" not in card and "3,800" not in card and "the lookup was fitted on pairs" not in card
    assert own_figures(trained, "T2") == {}
    assert "the run's figures: it trained on since" in " ".join(lost_in_bundle(trained, "T2"))
    assert "## Figures" in model_card(trained, "T2", evaluated_now=True)


def test_figures_go_with_the_checkpoint_that_was_evaluated(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("best.pt", "latest.pt"):
        (run / "checkpoints" / name).touch()
    (tmp_path / "best.pt").touch()
    monkeypatch.chdir(run)
    best, latest = (Path("checkpoints") / name for name in ("best.pt", "latest.pt"))
    assert run_that_evaluates(best) == run
    assert run_that_evaluates(latest) is run_that_evaluates(tmp_path / "best.pt") is None
    (run / "config.yaml").write_text("evaluation: {checkpoint: latest}")
    assert run_that_evaluates(best) is None and run_that_evaluates(latest) == run
