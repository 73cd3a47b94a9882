import pytest

from pipeline.config.schema import Training
from pipeline.data_builders import schedule_of
from pipeline.runs.folder import RunFolder
from pipeline.training.resume import StartingPoint, announce
from pipeline.training.schedule import TrainerState, warn_of_lost_rate


def warned(capsys, slices=1, **training):
    warn_of_lost_rate(schedule_of(Training(**training), slices))
    return capsys.readouterr().err


def test_an_epoch_is_a_pass_over_the_slices_unless_its_steps_are_set():
    assert schedule_of(Training(batch_size=4, epochs=3, decay_epochs=2), 10).steps == 5 * 3
    assert schedule_of(Training(batch_size=4, epochs=3, decay_epochs=2, steps_per_epoch=7), 10).steps == 5 * 7


def test_a_rate_that_is_halved_away_is_warned_of(capsys):
    """29,088 slices, 200 epochs: the tenth halving, the first below a thousandth, comes after a million of 5.8."""
    line = warned(capsys, 29_088, epochs=200, decay_epochs=0, halve_every=100_000)
    assert line.startswith(
        "warning: the learning rate falls below a thousandth of what it begins with after step 1,000,000 of 5,817,600; "
        "the other 83% would change next to nothing; raise training.halve_every (100000)"
    )


@pytest.mark.parametrize("training", [
    {"epochs": 100, "decay_epochs": 100, "steps_per_epoch": 1250},  # to 0, but only at the end
    {"epochs": 200, "decay_epochs": 0, "steps_per_epoch": 1250, "halve_every": 100_000},
    {"epochs": 1, "decay_epochs": 0, "steps_per_epoch": 1},
])  # fmt: skip
def test_a_rate_that_lasts_is_not_warned_of(training, capsys):
    assert warned(capsys, **training) == ""


def test_a_tenth_of_the_steps_may_follow_and_no_more(capsys):
    """The rate is below a thousandth from step 10 × halve_every on: 100 of 111 steps leave less than a tenth."""
    assert warned(capsys, epochs=111, decay_epochs=0, halve_every=10) == ""
    assert "after step 100 of 112; the other 11%" in warned(capsys, epochs=112, decay_epochs=0, halve_every=10)


def test_an_extension_of_a_run_that_had_decayed_says_where_its_learning_rate_goes_on(tmp_path, capsys):
    schedule = schedule_of(Training(epochs=2, decay_epochs=2, steps_per_epoch=4), 1)
    history = {"extensions": [{"step": 8, "from": [1, 1], "to": [2, 2]}]}
    announce(StartingPoint({"position": {"step": 8}}, history=history), RunFolder(tmp_path), schedule, "", 2e-4)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "extended from 2 (1 + 1 of decay) to 4 (2 + 2 of decay) epochs at step 8: the learning rate was 5e-05 and goes "
        "on at 0.0002"
    )


def test_scores_by_which_earlier_versions_chose_their_best_are_left_out():
    saved = {"step": 3, "epochs": 1, "best_score": 17.0}
    assert StartingPoint({"position": saved}).position == TrainerState(step=3, epochs=1)
