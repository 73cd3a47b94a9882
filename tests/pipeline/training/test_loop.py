import signal
from contextlib import nullcontext
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_slices import bank

from pipeline.data.loader import UnpairedSlices
from pipeline.training.loop import Callbacks, LossMonitor, NotFinite, train
from pipeline.training.schedule import Schedule, TrainerState
from pipeline.utils.errors import Stopped
from pipeline.utils.interruption import Interruption
from transforms.augmentation import Augmentation

SCHEDULE = Schedule(
    steps_per_epoch=3, constant_epochs=2, decay_epochs=2, batch_size=2, log_every=1000,
    validate_every_epochs=1, sample_every_epochs=1, checkpoint_seconds=1e9, max_bad_steps=3,
)  # fmt: skip


@pytest.fixture
def slices(tmp_path):
    """Return 7 and 5 slices, each of one random grey."""
    random = np.random.default_rng(0)
    greys = (random.uniform(-1, 1, (count, 1, 1)).repeat(4, 1).repeat(4, 2) for count in (7, 5))
    banks = [bank(tmp_path / f"{side}.npy", grey) for side, grey in enumerate(greys)]
    return UnpairedSlices(*banks, Augmentation(), seed=0)


class Recorder:
    """A fake engine and observers that write down what is asked of them."""

    def __init__(self, *, bad=(), scores=(), signals=None, interruption=None):
        self.bad, self.scores = set(bad), list(scores)
        self.signals, self.interruption = signals or {}, interruption or Interruption()
        self.batches, self.factors, self.frozen, self.events, self.logged, self.bars = [], [], [], [], [], []

    def set_learning_rate(self, factor, *, frozen=()):
        self.factors.append(factor)
        self.frozen.append(frozen)
        return {"generators": 0.2 * factor}

    def step(self, real_a, real_b):
        self.batches.append((real_a[:, 0, 0, 0].tolist(), real_b[:, 0, 0, 0].tolist()))
        self.signal("step", len(self.batches))
        loss = float("nan") if len(self.batches) in self.bad else 0.25
        return {"cycle": torch.tensor(1.0), "adversarial": torch.tensor(loss)}

    def signal(self, kind, count):
        if (kind, count) in self.signals:
            self.interruption.signal_number = self.signals[kind, count]

    def validate(self):
        self.events.append("validate")
        self.signal("validate", self.events.count("validate"))
        score = self.scores.pop(0) if self.scores else 0.0
        first, second = score if isinstance(score, tuple) else (score, score)
        return {"validation/score": score, "validation/psnr": 20.0}, {"T1": first, "T2": second}

    def callbacks(self):
        return Callbacks(
            log=lambda metrics, step: self.logged.append((step, metrics)),
            validate=self.validate,
            sample=lambda epochs, step: self.events.append(("sample", epochs, step)),
            save=lambda position, best: self.events.append(("save", position, best)),
            bar=self.bar,
        )

    def bar(self, done, total):
        self.bars.append(marks := [done, total])

        def update():
            marks[0] += 1

        return nullcontext(SimpleNamespace(update=update, set_postfix=lambda values, refresh: marks.append(values)))

    def train(self, slices, schedule=SCHEDULE, position=None):
        self.position = position or TrainerState()
        callbacks, cpu = self.callbacks(), torch.device("cpu")
        train(self, slices, schedule, self.position, callbacks, device=cpu, interruption=self.interruption)
        return self

    def saves(self):
        return [(event[1]["step"], bool(event[2])) for event in self.events if event[0] == "save"]

    def samples(self):
        return [event[1:] for event in self.events if event[0] == "sample"]

    def happened(self):
        """Return what happened without the saves, whose number depends on how often a run is stopped."""
        return [event for event in self.events if event[0] != "save"]


# ── the schedule ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_generators_wait_while_the_discriminators_warm_up_and_a_resumed_run_counts_on(slices):
    schedule = replace(SCHEDULE, discriminator_warmup=4)
    waiting = ("generators",)
    assert Recorder().train(slices, schedule).frozen == [waiting] * 4 + [()] * 8
    assert Recorder().train(slices, schedule, TrainerState(step=3, epochs=1)).frozen == [waiting] + [()] * 8
    assert set(Recorder().train(slices).frozen) == {()}


def test_the_learning_rate_is_constant_then_falls_to_zero_just_after_the_last_step(slices):
    schedule = replace(SCHEDULE, steps_per_epoch=2, constant_epochs=2, decay_epochs=2)
    assert Recorder().train(slices, schedule).factors == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert schedule.learning_rate_factor(schedule.steps) == 0


# ── order and cadence ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_samples_first_and_then_validates_samples_and_saves_after_each_epoch(slices):
    run = Recorder().train(slices, replace(SCHEDULE, constant_epochs=2, decay_epochs=0))
    kinds = [event if isinstance(event, str) else event[0] for event in run.events]
    assert kinds == ["sample", *["validate", "sample", "save"] * 2]
    assert run.samples() == [(0, 0), (1, 3), (2, 6)] and [step for step, _ in run.saves()] == [3, 6]
    assert len(run.batches) == 6 and all(len(side) == 2 for batch in run.batches for side in batch)
    assert run.bars == [[6, 6]]
    assert (run.position.step, run.position.epochs) == (6, 2) and run.position.seconds > 0


def test_validation_and_samples_come_every_so_many_epochs_and_after_the_last(slices):
    schedule = replace(SCHEDULE, constant_epochs=5, decay_epochs=2, validate_every_epochs=3, sample_every_epochs=2)
    run = Recorder().train(slices, schedule)
    validated = {"validation/score": 0.0, "validation/psnr": 20.0}
    assert run.logged == [(step, {**validated, "epoch": epoch}) for step, epoch in ((9, 3), (18, 6), (21, 7))]
    assert [epochs for epochs, _ in run.samples()] == [0, 2, 4, 6, 7]
    assert [step for step, _ in run.saves()] == [3, 6, 9, 12, 15, 18, 21]


def test_losses_and_learning_rate_are_logged_every_so_many_steps(slices):
    run = Recorder().train(slices, replace(SCHEDULE, steps_per_epoch=2, log_every=3))
    logged = [(step, metrics) for step, metrics in run.logged if "epoch" not in metrics]
    assert logged == [
        (3, {"train/cycle": 1.0, "train/adversarial": 0.25, "train/learning_rate_generators": 0.2}),
        (6, {"train/cycle": 1.0, "train/adversarial": 0.25, "train/learning_rate_generators": pytest.approx(0.15)}),
    ]
    assert run.bars == [[8, 8, *[{"cycle": "1.00", "adversarial": "0.25"}] * 2]]


def test_what_training_begins_with_is_validated_and_may_stay_the_best(slices):
    schedule = replace(SCHEDULE, validate_start=True)
    run = Recorder(scores=[(3.0, 1.0), (2.0, 2.0)]).train(slices, schedule)
    assert next((event[1]["step"], event[2]) for event in run.events if event[0] == "save") == (3, ("T2",))
    assert run.logged[0][0] == 0 and run.logged[0][1]["epoch"] == 0


def test_each_direction_has_its_own_best(slices):
    scores = [(1.0, 5.0), (2.0, 4.0), (2.0, 6.0), (float("nan"), 0.0), (2.5, 6.0)]
    run = Recorder(scores=scores).train(slices, replace(SCHEDULE, constant_epochs=3))
    assert [event[2] for event in run.events if event[0] == "save"] == [("T1", "T2"), ("T1",), ("T2",), (), ("T1",)]
    assert run.position.best_scores == {"T1": 2.5, "T2": 6.0}


def test_a_resumed_run_remembers_the_best_scores(slices):
    position = TrainerState(step=9, epochs=3, best_scores={"T1": 2.0, "T2": 2.0})
    assert Recorder(scores=[1.0]).train(slices, position=position).saves() == [(12, False)]


def test_checkpoints_are_also_saved_by_the_clock(slices):
    run = Recorder().train(slices, replace(SCHEDULE, constant_epochs=1, decay_epochs=1, checkpoint_seconds=-1.0))
    assert [step for step, _ in run.saves()] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert [best for _, best in run.saves()] == [False, False, False, True, False, False, False, False]


def test_a_finished_run_does_nothing_more(slices):
    run = Recorder().train(slices, position=TrainerState(step=12, epochs=4))
    assert (run.events, run.batches, run.logged) == ([], [], [])


# ── signals and resuming ──────────────────────────────────────────────────────────────────────────────────────


def test_a_signal_finishes_the_step_saves_and_stops(slices):
    run = Recorder(signals={("step", 5): signal.SIGINT})
    with pytest.raises(Stopped) as caught:
        run.train(slices)
    assert caught.value.exit_code == 130
    assert str(caught.value) == "SIGINT after step 5; saved; the same command goes on from there"
    assert len(run.batches) == 5 and run.bars == [[5, 12]]
    assert run.events[-1] == ("save", position := asdict(run.position), ())
    assert (position["step"], position["epochs"]) == (5, 1)


@pytest.mark.parametrize("validation", [2, 4])
def test_a_signal_during_validation_stops_when_the_epoch_is_saved(validation, slices):
    run = Recorder(signals={("validate", validation): signal.SIGTERM})
    with pytest.raises(Stopped, match=f"SIGTERM after step {3 * validation}; saved"):
        run.train(slices)
    assert [step for step, _ in run.saves()] == [3 * epoch for epoch in range(1, validation + 1)]
    assert run.samples()[-1] == (validation, 3 * validation)


@pytest.mark.parametrize("stop", [1, 3, 5, 12])
def test_a_stopped_run_goes_on_with_exactly_what_was_left(stop, slices):
    uninterrupted = Recorder(scores=[1.0, 0.5, 2.0, 3.0]).train(slices)
    scores = [1.0, 0.5, 2.0, 3.0]
    first = Recorder(scores=scores, signals={("step", stop): signal.SIGTERM})
    with pytest.raises(Stopped):
        first.train(slices)
    _, saved, _ = first.events[-1]
    validated = first.events.count("validate")
    second = Recorder(scores=scores[validated:]).train(slices, position=TrainerState(**saved))
    assert first.batches + second.batches == uninterrupted.batches and len(first.batches) == stop
    assert first.factors + second.factors == uninterrupted.factors
    assert first.happened() + second.happened() == uninterrupted.happened()
    assert first.logged + second.logged == uninterrupted.logged
    assert second.bars == [[12, 12]]
    assert second.saves()[-1] == uninterrupted.saves()[-1]
    assert replace(second.position, seconds=0) == replace(uninterrupted.position, seconds=0)


# ── losses that are not finite ────────────────────────────────────────────────────────────────────────────────


def test_too_many_bad_steps_in_a_row_stop_the_run_and_keep_the_last_good_checkpoint(slices):
    run = Recorder(bad=[5, 6, 7])
    with pytest.raises(NotFinite) as caught:
        run.train(slices)
    assert str(caught.value) == "training stopped at step 7: 3 losses in a row were not finite (adversarial)"
    assert len(run.batches) == 7
    assert run.saves() == [(3, True)]  # the epoch that ended with a bad step is not saved


def test_a_run_whose_last_step_was_skipped_is_saved_with_the_weights_before_it(slices):
    run = Recorder(bad=[12]).train(slices)
    assert run.saves()[-1] == (12, False)
    assert (run.position.epochs, run.position.bad_steps) == (4, 1)


def test_a_signal_after_a_skipped_last_step_says_that_it_is_saved(slices):
    run = Recorder(bad=[12], signals={("validate", 4): signal.SIGTERM})
    with pytest.raises(Stopped, match="SIGTERM after step 12; saved"):
        run.train(slices)
    assert run.saves()[-1] == (12, False)


def test_a_run_without_one_finite_step_ends_with_that(slices):
    run = Recorder(bad=[1, 2])
    with pytest.raises(NotFinite, match="training ended at step 2: not one loss was finite"):
        run.train(slices, replace(SCHEDULE, constant_epochs=1, decay_epochs=0, steps_per_epoch=2))
    assert run.saves() == []


def test_nothing_is_saved_by_the_clock_while_the_last_step_was_bad(slices):
    run = Recorder(bad=[2, 3]).train(
        slices, replace(SCHEDULE, constant_epochs=1, decay_epochs=1, checkpoint_seconds=-1.0)
    )
    assert [step for step, _ in run.saves()] == [1, 4, 5, 6, 6]


def test_a_best_score_that_was_not_saved_does_not_count(slices):
    run = Recorder(bad=[6], scores=[1.0, 9.0, 5.0, 2.0]).train(slices)
    assert run.saves() == [(3, True), (9, True), (12, False)]
    assert run.position.best_scores == {"T1": 5.0, "T2": 5.0}


def test_losses_are_looked_at_in_every_step_on_the_cpu_and_elsewhere_when_they_are_needed(slices, monkeypatch):
    flush, looks = LossMonitor.flush, []
    monkeypatch.setattr(LossMonitor, "flush", lambda monitor: looks.append(monitor.position.step) or flush(monitor))
    schedule = replace(SCHEDULE, log_every=5)
    for device, expected in (("cpu", {*range(1, 13)}), ("meta", {3, 5, 6, 9, 10, 12})):  # logs, and ends of epochs
        looks.clear()
        run, devices = Recorder(), []
        train(
            run, slices, schedule, TrainerState(), run.callbacks(),
            device=torch.device(device), interruption=run.interruption,
            step=lambda a, b, devices=devices: devices.append(a.device.type) or {"cycle": torch.tensor(1.0)},
        )  # fmt: skip
        assert set(looks) == expected
        assert devices == [device] * 12 and not run.batches  # the steps were those that were given


def test_a_signal_after_a_bad_step_keeps_the_checkpoint_before(slices):
    run = Recorder(bad=[5], signals={("step", 5): signal.SIGTERM})
    with pytest.raises(Stopped) as caught:
        run.train(slices)
    assert str(caught.value) == (
        "SIGTERM after step 5; its loss was not finite, so the last good checkpoint is kept; "
        "the same command goes on from there"
    )
    assert run.saves() == [(3, True)]


def test_a_signal_after_a_bad_step_before_any_checkpoint_says_that_nothing_is_saved(slices):
    run = Recorder(bad=[1, 2], signals={("step", 2): signal.SIGTERM})
    with pytest.raises(Stopped, match="its loss was not finite, so nothing is saved yet; the same command begins anew"):
        run.train(slices)
    assert run.saves() == []
