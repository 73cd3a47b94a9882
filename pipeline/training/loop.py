"""The training loop: it knows batches, time and the `Engine` protocol, and nothing of any method."""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import torch

from pipeline.console import warn
from pipeline.data.loader import PairedSlices, UnpairedSlices, epoch_loader
from pipeline.data.loader_workers import explaining_workers
from pipeline.distributed import ALONE, World
from pipeline.engines.protocol import Engine
from pipeline.errors import Stopped, UserError
from pipeline.interruption import Interruption
from pipeline.losses import all_finite

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


@dataclass
class Position:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0  # steps made
    epochs: int = 0  # epochs finished, with their validation and pictures
    bad_steps: int = 0  # of them skipped for a loss that was not finite
    bad_in_a_row: int = 0
    best_score: float = float("-inf")
    seconds: float = 0.0  # spent training, over all sittings
    losses: dict[str, float] = field(default_factory=dict)  # the latest of each: not every step has all of them


@dataclass(frozen=True)
class Observers:
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
    position: Position,
    observers: Observers,
    *,
    device: torch.device,
    interruption: Interruption,
    world: World = ALONE,
) -> None:
    """Train from `position` to the schedule's end.

    Where several processes train together, a signal to any of them stops all after the same step.

    Raises:
        Stopped: a signal came; the step under way was finished and a checkpoint written.
        UserError: the loss was not finite `max_bad_steps` times in a row, or a loader's worker died; the last good
            checkpoint stays.
    """
    if position.step == 0:
        observers.sample(0, 0)
    saved_at = time.monotonic()
    latest: dict[str, torch.Tensor | float] = dict(position.losses)
    with explaining_workers(schedule.loader_workers), observers.bar(position.step, schedule.steps) as bar:
        for epoch in range(position.epochs, schedule.epochs):
            for real_a, real_b in _batches(slices, schedule, epoch, position, device, world):
                started = time.monotonic()
                observers.begin(position.step)
                rates = engine.set_learning_rate(schedule.learning_rate_factor(position.step))
                losses = engine.step(real_a.to(device, non_blocking=True), real_b.to(device, non_blocking=True))
                latest |= losses
                position.step += 1
                _count_bad_steps(losses, position, schedule.max_bad_steps)
                if position.step % schedule.log_every == 0:
                    values = _floats(latest)
                    bar.set_postfix({name: f"{value:.2f}" for name, value in values.items()}, refresh=False)
                    values |= {f"learning_rate_{name}": rate for name, rate in rates.items()}
                    observers.log({f"train/{name}": value for name, value in values.items()}, position.step)
                bar.update()
                position.seconds += time.monotonic() - started
                if signal_number := world.greatest(interruption.signal_number or 0):
                    if not position.bad_in_a_row:
                        observers.save(_noted(position, latest), False)
                    _stop(signal_number, position)
                if time.monotonic() - saved_at > schedule.checkpoint_seconds and not position.bad_in_a_row:
                    observers.save(_noted(position, latest), False)
                    saved_at = time.monotonic()
            position.losses = _floats(latest)
            _end_epoch(epoch + 1, schedule, position, observers)
            saved_at = time.monotonic()
            if signal_number := world.greatest(interruption.signal_number or 0):
                _stop(signal_number, position)


def _batches(
    slices: UnpairedSlices | PairedSlices,
    schedule: Schedule,
    epoch: int,
    position: Position,
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
        pin_memory=device.type == "cuda",
        slots=world.slots(schedule.batch_size),
    )


def _floats(losses: Mapping[str, torch.Tensor | float]) -> Metrics:
    return {name: float(loss) for name, loss in losses.items()}


def _noted(position: Position, latest: Mapping[str, torch.Tensor | float]) -> dict:
    """Return the position as it is saved, with the latest losses."""
    position.losses = _floats(latest)
    return asdict(position)


def _end_epoch(epochs: int, schedule: Schedule, position: Position, observers: Observers) -> None:
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


def _count_bad_steps(losses: dict[str, torch.Tensor], position: Position, limit: int) -> None:
    """Note a step whose loss was not finite (the engine skipped it), and give up after too many in a row."""
    if all_finite(losses):
        position.bad_in_a_row = 0
        return
    position.bad_steps += 1
    position.bad_in_a_row += 1
    names = ", ".join(name for name, loss in losses.items() if not torch.isfinite(loss))
    warn(f"\nwarning: step {position.step}: {names} not finite; the step was skipped")
    if position.bad_in_a_row >= limit:
        raise UserError(
            f"training stopped at step {position.step}: {limit} losses in a row were not finite ({names}); the last "
            "good checkpoint is kept; lower training.learning_rate, or use precision bf16 or float32"
        )


def _stop(signal_number: int, position: Position) -> None:
    bad = position.bad_in_a_row > 0
    kept = "its loss was not finite, so the last good checkpoint is kept" if bad else "saved"
    reason = f"{signal.Signals(signal_number).name} after step {position.step}; {kept}"
    raise Stopped(signal_number, f"{reason}; the same command goes on from there")
