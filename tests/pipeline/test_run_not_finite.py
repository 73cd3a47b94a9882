"""A training that ran into numbers that are not finite, and whether its folder takes the advice it gets."""

import shutil
from types import SimpleNamespace

import pytest
from small_run import QUICK, latest, train_phantom

from pipeline.runs.folder import RunFolder
from pipeline.training.resume import advice_after_not_finite
from pipeline.training.schedule import TrainerState

FROM_NOTHING = ("generator.start=null", "method.lookup_weight=0")
WILD = (*FROM_NOTHING, "training.learning_rate=1e30", "training.max_bad_steps=2")
QUICKER = (*QUICK, "evaluation.uncertainty=false", "evaluation.translate=false", "training.max_bad_steps=2")


def test_before_any_checkpoint_the_same_folder_takes_what_is_advised(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    schedule = ("training.steps_per_epoch=20", "training.decay_epochs=0", "training.halve_every=1")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=2000, free=1000))
        assert train_phantom(folder, *QUICK, *WILD, *schedule, "training.precision=bf16") == 2
    *lines, error = capsys.readouterr().err.splitlines()
    # Before it trains, a run warns of its disk and of a lost learning rate.
    (disk,) = [line for line in lines if line.startswith("warning: the disk of ")]
    assert "has 1000 B free" in disk and "checkpoints" in disk and f"in {folder / 'translated'}" in disk
    assert any(line.startswith("warning: the learning rate falls") and "after step 10 of 20" in line for line in lines)
    assert "losses in a row were not finite" in error
    advice = "lower training.learning_rate, or use training.precision=float32"
    assert error.endswith(f"; nothing is saved yet; {advice}: the same command with it begins anew")
    assert not (folder / "checkpoints").exists()
    split = (folder / "split.json").read_text()
    other = ("split.seed=5", "generator.width=2")  # whatever else one may think of
    assert train_phantom(folder, *QUICKER, *other, "training.sample_every=2") == 0
    assert latest(folder)["config"]["split"]["seed"] == 5
    assert (folder / "split.json").read_text() != split


def test_where_validation_meets_no_numbers_before_enough_steps_did_the_advice_is_the_same(tmp_path, capsys):
    folder = tmp_path / "run"
    rate = "training.learning_rate=1e6"
    assert train_phantom(folder, *QUICK, *FROM_NOTHING, rate) == 2  # four steps an epoch, of twenty borne
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a validation slice: the network's output is not finite" in error
    assert error.endswith("; nothing is saved yet; lower training.learning_rate: the same command with it begins anew")


def test_after_a_checkpoint_the_advice_leads_to_a_new_folder(tmp_path, monkeypatch, capsys):
    from pipeline.engines.cyclegan import CycleGan

    losses, calls = CycleGan.losses, []

    def spoilt(engine, real_a, real_b):
        calls.append(1)
        made = losses(engine, real_a, real_b)
        return {player: {name: item * (float("nan") if len(calls) > 5 else 1) for name, item in arguments.items()}
                for player, arguments in made.items()}  # fmt: skip

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(CycleGan, "losses", spoilt)
        assert train_phantom(folder, *QUICKER) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(
        f"; the last good checkpoint is kept ({folder / 'checkpoints' / 'latest.pt'}); lower training.learning_rate, "
        f"in a new output: with training.start_from={folder} it begins from this run's weights"
    )
    lower = "training.learning_rate=0.0001"
    assert train_phantom(folder, *QUICKER, lower) == 2  # as it says
    assert f"set output=… (there training.start_from={folder} begins from its weights)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("half_precision", "change"),
    [(True, "use training.precision=float32"), (False, "look at the data (pipeline.explore) and method's keys")],
)
def test_where_not_one_step_succeeded_no_learning_rate_is_blamed(half_precision, change, tmp_path):
    position = TrainerState(step=2, bad_steps=2)
    text = advice_after_not_finite(RunFolder(tmp_path), position, half_precision=half_precision)
    assert f"; not one step succeeded, so the learning rate is not the cause; {change}: the same command" in text
