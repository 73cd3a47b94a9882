"""Runs that begin from the weights of another run, on the phantom."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_engine import differences
from small_run import CONFIGS, QUICK, in_child, latest, phantom_run, signal_at, train_phantom, unlike

import pipeline.run
import pipeline.sweep
from pipeline.runs.checkpoint import load_checkpoint

NETWORKS = ("G", "F", "D_A", "D_B")
QUICKER = (*QUICK, "evaluation.uncertainty=false", "evaluation.translate=false", "training.decay_epochs=0")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run that others begin from."""
    folder = tmp_path_factory.mktemp("source") / "run"
    assert train_phantom(folder, *QUICKER, "name=source") == 0
    return folder


def begin(folder, source, *overrides, whole=False):
    return (phantom_run if whole else train_phantom)(folder, *QUICKER, f"training.start_from={source}", *overrides)


def networks(state):
    return {name: state["engine"][name] for name in NETWORKS}


def best_before(state):
    """The translators of a checkpoint that are of an earlier step than its averaged generators, by generator."""
    averaged, found = state["engine"]["averaged"], {}
    for to, name in (("T1", "F"), ("T2", "G")):
        newest = {key.removeprefix(f"{name}."): value for key, value in averaged.items() if key.startswith(f"{name}.")}
        if differences(newest, state["translators"][to]):
            found[name] = state["translators"][to]
    return found


def test_the_weights_are_those_of_the_other_run_and_the_optimisers_are_fresh(source, tmp_path, monkeypatch, capsys):
    tags = {}
    monkeypatch.setattr("pipeline.tracking.tracker.Tracker.set_tags", lambda tracker, new: tags.update(new))
    still = ("training.learning_rate=1e-300", "training.discriminator_learning_rate=1e-300")  # nothing moves
    # Another split: some who were trained with are held out now, and scores may flatter.
    assert begin(tmp_path / "run", source, *still, "seed=9", "split.seed=1", whole=True) == 0
    splits = [json.loads((folder / "split.json").read_text()) for folder in (source, tmp_path / "run")]
    seen = {name for names in splits[0]["train"].values() for name in names} & {
        *splits[1]["validation"], *splits[1]["test"],
    }  # fmt: skip
    theirs, ours = load_checkpoint(source / "checkpoints" / "best.pt"), latest(tmp_path / "run")
    assert differences(networks(ours), networks(theirs) | best_before(theirs)) == set()
    assert ours["engine"]["optimiser_generators"]["state"][0]["step"] == 4  # its own steps
    assert (ours["position"]["step"], ours["position"]["epochs"]) == (4, 1)
    digest = hashlib.sha256((source / "checkpoints" / "best.pt").read_bytes()).hexdigest()
    record = {
        "run": "source", "path": str(source / "checkpoints" / "best.pt"), "step": 4, "sha256": digest,
        "method": "cyclegan", "held_out_seen": len(seen),
    }  # fmt: skip
    assert seen
    assert ours["history"] == {"started_from": record}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["started_from"] == record
    text = f"source (cyclegan), step 4: {record['path']}, SHA-256 {digest}"
    printed = capsys.readouterr()
    assert f"starting from the weights of {text}" in printed.out
    assert f"source was trained with {len(seen)} of 2 subjects that validate and test here" in printed.err
    assert tags["started_from"].startswith(text)
    assert f"# started from: {text}" in (tmp_path / "run" / "config.yaml").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert digest in page and f"trained with {len(seen)} of this run&#39;s validation and test subjects" in page


def test_a_run_goes_on_when_the_other_is_gone_and_ends_as_if_nothing_had_been(source, tmp_path, monkeypatch, capsys):
    assert begin(tmp_path / "whole", source) == 0
    assert "flatter" not in capsys.readouterr().err
    gone = Path(shutil.copytree(source, tmp_path / "gone"))
    frequent_checkpoints = "training.checkpoint_minutes=0.00001"
    with monkeypatch.context() as patch:
        signal_at(patch, signal.SIGKILL, 3)
        assert in_child(lambda: begin(tmp_path / "run", gone, frequent_checkpoints)) == -signal.SIGKILL
    shutil.rmtree(gone)
    assert begin(tmp_path / "run", gone, frequent_checkpoints) == 0
    assert unlike(tmp_path / "run", tmp_path / "whole") == set()
    first, second = (latest(tmp_path / name)["history"]["started_from"]["sha256"] for name in ("run", "whole"))
    assert first == second


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_is_not_there_is_refused_before_anything_slow_is_imported(tmp_path):
    code = (
        "import sys; from pipeline.run import main; assert main(sys.argv[1:]) == 2; "
        "assert not {'torch', 'monai', 'mlflow'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(CONFIGS / "phantom.yaml"), "output=run", "training.start_from=nowhere"]
    paths = {"PYTHONPATH": str(CONFIGS.parent)}
    result = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr == (
        "error: training.start_from = nowhere: no checkpoint there; give the folder of a run that has trained, or one "
        "of its checkpoints/*.pt\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("door", [pipeline.run, pipeline.sweep], ids=["plan", "sweep"])
def test_plan_and_sweep_refuse_it_too(door, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = ["--dry-run"] if door is pipeline.run else []
    assert door.main([str(CONFIGS / "phantom.yaml"), "training.start_from=nowhere", *more]) == 2
    assert "training.start_from = nowhere: no checkpoint there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("contrasts", "reason"),
    [
        ("[T2,T1]", "training.start_from has weights of T1 and T2, in this order ({path}); set contrasts=[T1,T2]"),
        ("[T1,PD]", "training.start_from has weights of T1 and T2 ({path}); give the contrasts these names"),
    ],
)
def test_other_contrasts_are_refused_with_the_remedy(contrasts, reason, source, tmp_path, capsys):
    assert begin(tmp_path / "run", source, f"contrasts={contrasts}") == 2
    assert reason.format(path=source / "checkpoints" / "best.pt") in capsys.readouterr().err


# ── where it is told ────────────────────────────────────────────────────────────────────────────────────────


def test_the_plan_says_whose_weights_a_run_begins_with(source, tmp_path, capsys):
    assert begin(tmp_path / "run", source, "--dry-run") == 0
    assert "weights    of source (cyclegan), step 4: " in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_run_from_the_lookup_is_no_start_for_one_from_the_box_and_no_data_are_prepared(source, tmp_path, capsys):
    assert begin(tmp_path / "run", source, "generator.start=box", f"preprocess.store={tmp_path / 'store'}") == 2
    error = capsys.readouterr().err
    assert f"the networks of {source / 'checkpoints' / 'best.pt'} are not those of this configuration" in error
    assert "generator.start: 'lookup' there, 'box' here" in error and "Traceback" not in error
    assert not (tmp_path / "store").exists()


def test_the_box_is_begun_from_by_another_key(tmp_path, capsys):
    assert begin(tmp_path / "run", "box") == 2
    assert "training.start_from = box: set generator.start: box instead" in capsys.readouterr().err
