"""More epochs for a run that has ended, or is under way, on the phantom."""

import io
import json
import shutil
import signal
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from finished_runs import read_run
from small_run import QUICK, in_child, latest, phantom_run, signal_at, train_phantom, unlike

from pipeline.config.load import load_config
from pipeline.run_config import is_finished
from pipeline.runs.folder import RunFolder
from pipeline.tracking.metrics_file import read_metrics
from pipeline.utils.errors import UserError

QUICKER = (*QUICK, "evaluation.uncertainty=false", "evaluation.translate=false")


def run(folder, epochs, decay_epochs, *overrides, whole=False):
    schedule = (f"training.epochs={epochs}", f"training.decay_epochs={decay_epochs}")
    return (phantom_run if whole else train_phantom)(folder, *QUICKER, *schedule, *overrides)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of one epoch at the constant rate, ended; nobody changes it."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    assert run(folder, 1, 0, whole=True) == 0
    return folder


@pytest.fixture(scope="module")
def extended(ended, tmp_path_factory):
    """A copy of it, extended to two epochs, and what that printed."""
    folder = Path(shutil.copytree(ended, tmp_path_factory.mktemp("extended") / "run"))
    with redirect_stdout(io.StringIO()) as printed:
        assert run(folder, 2, 0) == 0
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def decayed(ended, tmp_path_factory):
    """A copy of it, extended by an epoch of decay, evaluated and reported anew, and its tags in MLflow."""
    folder, tags = Path(shutil.copytree(ended, tmp_path_factory.mktemp("decayed") / "run")), {}
    with patch("pipeline.tracking.tracker.Tracker.set_tags", lambda tracker, new: tags.update(new)):
        assert run(folder, 1, 1, whole=True) == 0
    return folder, tags


@pytest.fixture
def folder(ended, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(ended, tmp_path / "run"))


def rates(folder):
    records = read_metrics(folder / "metrics.jsonl")[0]
    return [item["train/learning_rate_generators"] for item in records if "train/learning_rate_generators" in item]


def test_more_epochs_at_the_constant_rate_end_bitwise_as_if_they_had_been_asked_for_at_once(extended, tmp_path):
    folder, message = extended
    assert "extended from 1 to 2 epochs at step 4: the learning rate was 0.0002 and goes on at 0.0002" in message
    assert "trained 4 of 8 steps" in message
    assert run(tmp_path / "longer", 2, 0) == 0
    assert unlike(folder, tmp_path / "longer") == set()


def test_an_extension_that_is_killed_and_repeated_ends_as_an_undisturbed_one(folder, decayed, monkeypatch, capsys):
    uninterrupted, _ = decayed
    for step in (2, 3):  # before its first checkpoint, and in the third step after that
        with monkeypatch.context() as context:
            signal_at(context, signal.SIGKILL, step)
            minutes = "training.checkpoint_minutes=0.00001" if step == 3 else "training.checkpoint_minutes=5"
            assert in_child(lambda minutes=minutes: run(folder, 1, 1, minutes)) == -signal.SIGKILL
    assert latest(folder)["position"]["step"] == 6
    with pytest.raises(UserError, match=r"not finished, for it trained on since it was scored; run its command again"):
        read_run(folder)
    assert not is_finished(RunFolder(folder), load_config(folder / "config.yaml", ["training.decay_epochs=0"]))
    assert run(folder, 1, 1) == 0
    assert unlike(folder, uninterrupted) == set()
    assert latest(folder)["history"] == latest(uninterrupted)["history"]
    assert "at the end" not in capsys.readouterr().err


def test_an_extension_is_on_record_and_everything_is_made_again(ended, decayed):
    page, scores = ((ended / name).read_text() for name in ("report.html", "scores.json"))
    folder, tags = decayed
    extension = {"step": 4, "from": [1, 0], "to": [1, 1]}
    text = "extended from 1 to 2 (1 + 1 of decay) epochs at step 4"
    record = json.loads((folder / "run.json").read_text())
    assert (record["extensions"], record["steps"]) == ([extension], 8)
    config = (folder / "config.yaml").read_text()
    assert f"# schedule: {text}" in config and "decay_epochs: 1" in config and tags["schedule"] == text
    assert text in (folder / "report.html").read_text() and text not in page
    assert (folder / "scores.json").read_text() != scores
    assert is_finished(RunFolder(folder), load_config(folder / "config.yaml"))
    assert len(list((folder / "samples" / "T1_to_T2").iterdir())) == 3  # untrained, and after each epoch


def test_a_run_under_way_takes_another_schedule_too(tmp_path, monkeypatch, capsys):
    signal_at(monkeypatch, signal.SIGTERM, 5)
    assert run(tmp_path / "run", 3, 0) == 143
    monkeypatch.undo()
    assert run(tmp_path / "run", 1, 1) == 0
    assert "shortened from 3 to 2 (1 + 1 of decay) epochs at step 5" in capsys.readouterr().out
    assert rates(tmp_path / "run") == pytest.approx([2e-4] * 5 + [1.5e-4, 1e-4, 0.5e-4])


@pytest.mark.parametrize(
    ("epochs", "decay", "reason"),
    [
        (1, 0, "2 epochs are trained already, and training.epochs = 1 and training.decay_epochs = 0 are 1 in all"),
        (1, 1, "all 2 epochs are trained already, with training.epochs = 2 and training.decay_epochs = 0"),
    ],
)
def test_fewer_epochs_than_are_trained_and_as_many_divided_otherwise_are_refused(
    epochs, decay, reason, extended, capsys
):
    folder, _ = extended
    before = (folder / "config.yaml").read_bytes()
    assert run(folder, epochs, decay) == 2
    message = capsys.readouterr().err
    assert reason in message and "set 3 or more in all to train on, or another output" in message
    assert (folder / "config.yaml").read_bytes() == before


def test_a_dry_run_refuses_fewer_epochs_than_are_trained_and_changes_nothing(extended, capsys):
    folder, _ = extended
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(folder, 1, 0, "--dry-run") == 2
    assert "2 epochs are trained already" in capsys.readouterr().err
    assert run(folder, 3, 0, "--dry-run") == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
