"""The training loop: it knows batches, time and the `Engine` protocol, and nothing of any method."""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from pipeline.data.loader import PairedSlices, SliceBank, UnpairedSlices, epoch_loader
from pipeline.data.loader_workers import explaining_workers
from pipeline.engines.protocol import Engine
from pipeline.training.loss_monitor import LossMonitor
from pipeline.training.trainer_state import TrainerState
from pipeline.utils.distributed import SINGLE_PROCESS, World
from pipeline.utils.errors import Stopped
from pipeline.utils.interruption import Interruption

Metrics = dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """How long and how often; steps unless the name says otherwise."""

    steps_per_epoch: int
    constant_epochs: int
    decay_epochs: int
    batch_size: int
    loader_workers: int
    log_every: int
    validate_every_epochs: int
    sample_every_epochs: int
    checkpoint_seconds: float
    max_bad_steps: int
    halve_every: int | None = None

    @property
    def epochs(self) -> int:
        return self.constant_epochs + self.decay_epochs

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def learning_rate_factor(self, step: int) -> float:
        """Return 1 for the constant epochs, then a straight line that would reach 0 just after the last step.

        Where `halve_every` is set, halved besides after each so many steps.
        """
        constant = self.constant_epochs * self.steps_per_epoch
        line = 1.0 if step < constant else (self.steps - step) / (self.steps - constant)
        return line * 0.5 ** (step // self.halve_every) if self.halve_every else line


@dataclass(frozen=True)
class Callbacks:
    """What happens at an epoch's end; none of it changes the engine.

    Attributes:
        log: Takes metrics and the step they belong to.
        validate: Returns metrics; "validation/score" among them decides which checkpoint is best, higher is better.
        sample: Draws the sample pictures after the given number of epochs.
        save: Writes a checkpoint of the engine at a position (a dict), as the best one if so told.
        bar: Opens a progress bar at a step of so many.
        begin: Called before each step with the number of steps made.
    """

    log: Callable[[Metrics, int], None]
    validate: Callable[[], Metrics]
    sample: Callable[[int, int], None]
    save: Callable[[dict, bool], None]
    bar: Callable[[int, int], object]
    begin: Callable[[int], None] = lambda step: None


def train(
    engine: Engine,
    slices: UnpairedSlices | PairedSlices,
    schedule: Schedule,
    position: TrainerState,
    observers: Callbacks,
    *,
    device: torch.device,
    interruption: Interruption,
    world: World = SINGLE_PROCESS,
    step: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None,
) -> None:
    """Train from `position` to the schedule's end.

    Steps are the engine's own, or what makes them in its place.

    Where several processes train together, a signal to any of them stops all after the same step.

    Raises:
        Stopped: a signal came; the step under way was finished and a checkpoint written.
        NotFinite: the loss was not finite `max_bad_steps` times in a row; the last good checkpoint stays.
        UserError: a loader's worker died; so does it.
    """
    if position.step == 0:
        observers.sample(0, 0)
    make_step, saved = step or engine.step, position.step > 0  # a run that goes on does so from a checkpoint
    saved_at, ledger = time.monotonic(), LossMonitor(position, schedule.max_bad_steps)
    with explaining_workers(schedule.loader_workers), observers.bar(position.step, schedule.steps) as bar:
        for epoch in range(position.epochs, schedule.epochs):
            for real_a, real_b in _batches(slices, schedule, epoch, position, device, world):
                started = time.monotonic()
                observers.begin(position.step)
                rates = engine.set_learning_rate(schedule.learning_rate_factor(position.step))
                losses = make_step(real_a.to(device, non_blocking=True), real_b.to(device, non_blocking=True))
                position.step += 1
                ledger.record(losses)
                logs = position.step % schedule.log_every == 0
                ends = position.step % schedule.steps_per_epoch == 0
                if logs or ends or device.type == "cpu":  # elsewhere to look means to wait
                    ledger.flush()
                if logs:
                    _log(position, rates, observers, bar)
                bar.update()
                due = world.is_main and time.monotonic() - saved_at > schedule.checkpoint_seconds
                asked = world.all_reduce_max(
                    2 * (interruption.signal_number or 0) + due
                )  # the first one's clock, any signal
                if asked:
                    ledger.flush()
                position.seconds += time.monotonic() - started
                if asked and not position.bad_in_a_row:  # what follows a bad step is not saved
                    observers.save(asdict(position), False)
                    saved_at, saved = time.monotonic(), True
                if asked > 1:
                    _stop(asked // 2, position, saved)
            _end_epoch(epoch + 1, schedule, position, observers)
            saved_at, saved = time.monotonic(), saved or not position.bad_in_a_row
            if signal_number := world.all_reduce_max(interruption.signal_number or 0):
                _stop(signal_number, position, saved)


def _log(position: TrainerState, rates: Mapping[str, float], observers: Callbacks, bar: object) -> None:
    """Show and log the latest losses."""
    bar.set_postfix({name: f"{value:.2f}" for name, value in position.losses.items()}, refresh=False)
    values = position.losses | {f"learning_rate_{name}": rate for name, rate in rates.items()}
    observers.log({f"train/{name}": value for name, value in values.items()}, position.step)


def _batches(
    slices: UnpairedSlices | PairedSlices,
    schedule: Schedule,
    epoch: int,
    position: TrainerState,
    device: torch.device,
    world: World,
):
    """Return the batches of an epoch that are still to come: of each, this process's samples."""
    return epoch_loader(
        slices,
        epoch=epoch,
        batches=schedule.steps_per_epoch,
        batch_size=schedule.batch_size,
        first_batch=position.step - epoch * schedule.steps_per_epoch,
        workers=schedule.loader_workers,
        pin_memory=device.type == "cuda" and isinstance(slices.banks[0], SliceBank),
        slots=world.local_slots(schedule.batch_size),
    )


def _end_epoch(epochs: int, schedule: Schedule, position: TrainerState, observers: Callbacks) -> None:
    """Validate, sample and save after the given number of epochs; what follows a bad step is not saved."""
    last, best = epochs == schedule.epochs, False
    if epochs % schedule.validate_every_epochs == 0 or last:
        metrics = observers.validate()
        observers.log({**metrics, "epoch": epochs}, position.step)
        best = metrics["validation/score"] > position.best_score and not position.bad_in_a_row
        if best:
            position.best_score = metrics["validation/score"]
    if epochs % schedule.sample_every_epochs == 0 or last:
        observers.sample(epochs, position.step)
    position.epochs = epochs
    if not position.bad_in_a_row:
        observers.save(asdict(position), best)


def _stop(signal_number: int, position: TrainerState, saved: bool) -> None:
    """Raise `Stopped`, and say what remains: the step, the checkpoint before a bad one, or nothing (not `saved`)."""
    kept = "saved; the same command goes on from there"
    if position.bad_in_a_row and saved:
        kept = "its loss was not finite, so the last good checkpoint is kept; the same command goes on from there"
    elif position.bad_in_a_row:
        kept = "its loss was not finite, so nothing is saved yet; the same command begins anew"
    raise Stopped(signal_number, f"{signal.Signals(signal_number).name} after step {position.step}; {kept}")
