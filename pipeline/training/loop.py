"""The training loop: it knows batches, time and the `Engine` protocol, but no method."""

import logging
import math
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from pipeline.data.loader import PairedSlices, SliceBank, UnpairedSlices, epoch_batches
from pipeline.engines.base import GENERATORS, Engine
from pipeline.training.schedule import Schedule, TrainerState
from pipeline.utils.console import ProgressBar
from pipeline.utils.distributed import SINGLE_PROCESS, World
from pipeline.utils.errors import Stopped, UserError
from pipeline.utils.interruption import Interruption

logger = logging.getLogger(__name__)
Metrics = dict[str, float]
NAMED = 3  # the first skipped steps, each of which gets a warning; later only the 10th, the 100th, … do
POWERS = {10**power for power in range(1, 10)}


class NotFinite(UserError):
    """Training ran into numbers that are not finite; `resume.advice_after_not_finite` says what to do."""


@dataclass(frozen=True)
class Callbacks:
    """Functions that the training loop calls; none of them changes the engine."""

    log: Callable[[Metrics, int], None]  # logs metrics at a step
    validate: Callable[[], tuple[Metrics, dict[str, float]]]  # metrics and, by target contrast, its translator's score
    sample: Callable[[int, int], None]  # draws the sample pictures, given the numbers of epochs and steps
    save: Callable[[dict, Collection[str]], None]  # given the trainer state, and the targets with the best translators
    bar: Callable[[int, int], ProgressBar]  # opens a progress bar, given the steps made and all steps
    begin: Callable[[int], None] = lambda step: None  # before each step, with the number of steps made


def train(
    engine: Engine,
    slices: UnpairedSlices | PairedSlices,
    schedule: Schedule,
    position: TrainerState,
    callbacks: Callbacks,
    *,
    device: torch.device,
    interruption: Interruption,
    world: World = SINGLE_PROCESS,
    step: Callable[..., dict[str, Tensor]] | None = None,
) -> None:
    """Train from `position` to the schedule's end.

    Steps are made by `step` if given, else by the engine itself.

    If several processes train together, a signal to any of them stops all after the same step.

    Raises:
        Stopped: a signal came; the step under way was finished and a checkpoint written.
        NotFinite: the loss was not finite `max_bad_steps` times in a row; the last good checkpoint stays.
    """
    if position.step == 0:
        callbacks.sample(0, 0)
        if schedule.validate_start:
            _validate(0, position, callbacks)
    make_step, has_checkpoint = step or engine.step, position.step > 0  # a resumed run has one
    saved_at, loss_monitor = time.monotonic(), LossMonitor(position, schedule.max_bad_steps)
    with callbacks.bar(position.step, schedule.steps) as bar:
        for epoch in range(position.epochs, schedule.epochs):
            for images in _batches(slices, schedule, epoch, position, device, world):
                # Make a step.
                started = time.monotonic()
                callbacks.begin(position.step)
                frozen = (GENERATORS,) if position.step < schedule.discriminator_warmup else ()
                rates = engine.set_learning_rate(schedule.learning_rate_factor(position.step), frozen=frozen)
                losses = make_step(*(image.to(device, non_blocking=True) for image in images))
                position.step += 1
                # Read the losses: on a GPU only when they are needed, for reading waits for it.
                loss_monitor.record(losses)
                is_log_step = position.step % schedule.log_every == 0
                is_epoch_end = position.step % schedule.steps_per_epoch == 0
                if is_log_step or is_epoch_end or device.type == "cpu":
                    loss_monitor.flush()
                if is_log_step:
                    _log(position, rates, callbacks, bar)
                bar.update()
                is_checkpoint_due = world.is_main and time.monotonic() - saved_at > schedule.checkpoint_seconds
                # Save or stop on request: by the first process's clock (bit 0), or a signal to any process (the rest).
                request = max(world.all_gather_int(2 * (interruption.signal_number or 0) + is_checkpoint_due))
                if request:
                    loss_monitor.flush()
                position.seconds += time.monotonic() - started
                if request and not position.bad_in_a_row:  # no checkpoint after a step that was not finite
                    callbacks.save(asdict(position), ())
                    saved_at, has_checkpoint = time.monotonic(), True
                if request > 1:
                    _stop(request // 2, position, not position.bad_in_a_row, has_checkpoint)
            is_saved = _end_epoch(epoch + 1, schedule, position, callbacks)
            if is_saved:
                saved_at, has_checkpoint = time.monotonic(), True
            if signal_number := max(world.all_gather_int(interruption.signal_number or 0)):
                _stop(signal_number, position, is_saved, has_checkpoint)


def _log(position: TrainerState, rates: Mapping[str, float], callbacks: Callbacks, bar: ProgressBar) -> None:
    """Show and log the latest losses."""
    bar.set_postfix({name: f"{value:.2f}" for name, value in position.losses.items()}, refresh=False)
    values = position.losses | {f"learning_rate_{name}": rate for name, rate in rates.items()}
    callbacks.log({f"train/{name}": value for name, value in values.items()}, position.step)


def _batches(
    slices: UnpairedSlices | PairedSlices,
    schedule: Schedule,
    epoch: int,
    position: TrainerState,
    device: torch.device,
    world: World,
) -> Iterator[tuple[Tensor, ...]]:
    """Return the remaining batches of an epoch, of each this process's samples."""
    return epoch_batches(
        slices,
        epoch=epoch,
        batches=schedule.steps_per_epoch,
        batch_size=schedule.batch_size,
        first_batch=position.step - epoch * schedule.steps_per_epoch,
        pin_memory=device.type == "cuda" and isinstance(slices.banks[0], SliceBank),
        slots=world.local_slots(schedule.batch_size),
    )


def _end_epoch(epochs: int, schedule: Schedule, position: TrainerState, callbacks: Callbacks) -> bool:
    """Validate, sample and save after the given number of epochs; return whether a checkpoint was saved.

    No checkpoint follows a step that was not finite, but for the last of all: it was skipped, so the weights stand.

    Raises:
        NotFinite: not one step of all was finite.
    """
    is_last = epochs == schedule.epochs
    if is_last and position.bad_steps == position.step:
        raise NotFinite(f"training ended at step {position.step}: not one loss was finite")
    best: tuple[str, ...] = ()
    if epochs % schedule.validate_every_epochs == 0 or is_last:
        best = _validate(epochs, position, callbacks)
    if epochs % schedule.sample_every_epochs == 0 or is_last:
        callbacks.sample(epochs, position.step)
    position.epochs = epochs
    is_saved = is_last or not position.bad_in_a_row
    if is_saved:
        callbacks.save(asdict(position), best)
    return is_saved


def _validate(epochs: int, position: TrainerState, callbacks: Callbacks) -> tuple[str, ...]:
    """Validate; return the targets whose translators are the best yet, none after a step that was not finite."""
    metrics, scores = callbacks.validate()
    callbacks.log({**metrics, "epoch": epochs}, position.step)
    if position.bad_in_a_row:
        return ()
    best_scores = {
        target: score for target, score in scores.items() if score > position.best_scores.get(target, -math.inf)
    }
    position.best_scores |= best_scores
    position.best_steps |= dict.fromkeys(best_scores, position.step)
    return tuple(best_scores)


def _stop(signal_number: int, position: TrainerState, is_saved: bool, has_checkpoint: bool) -> None:
    """Raise `Stopped` with what is saved: this step, an earlier checkpoint (`has_checkpoint`), or nothing."""
    outcome = "saved; the same command goes on from there"
    if not is_saved and has_checkpoint:
        outcome = "its loss was not finite, so the last good checkpoint is kept; the same command goes on from there"
    elif not is_saved:
        outcome = "its loss was not finite, so nothing is saved yet; the same command begins anew"
    raise Stopped(signal_number, f"{signal.Signals(signal_number).name} after step {position.step}; {outcome}")


class LossMonitor:
    """Records every step's losses, and updates a `TrainerState`'s counts of steps that were not finite.

    Args:
        position: State of the run; it keeps the latest value of each loss, for not every step has all of them.
        limit: Number of consecutive steps that are not finite that ends a run.
    """

    def __init__(self, position: TrainerState, limit: int):
        self.position, self.limit = position, limit
        self._pending: list[tuple[int, tuple[str, ...], Tensor]] = []  # step, names, values (K,) on the device

    def record(self, losses: Mapping[str, Tensor]) -> None:
        """Record the losses of the latest step, without waiting for a GPU."""
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        self._pending.append((self.position.step, tuple(losses), values))

    def flush(self) -> None:
        """Read the recorded losses into the trainer state; warn of steps that the engine skipped.

        Raises:
            NotFinite: too many in a row were skipped.
        """
        if self._pending:
            pending, self._pending = self._pending, []
            values = iter(torch.cat([values for _, _, values in pending]).tolist())  # one synchronisation for all
            for step, names, _ in pending:
                self._enter(step, {name: next(values) for name in names})

    def _enter(self, step: int, losses: Mapping[str, float]) -> None:
        self.position.losses.update(losses)
        names = ", ".join(name for name, loss in losses.items() if not math.isfinite(loss))
        if not names:
            self.position.bad_in_a_row = 0
            return
        self.position.bad_steps += 1
        self.position.bad_in_a_row += 1
        count = self.position.bad_steps
        if count <= NAMED or count in POWERS:
            further = {NAMED: "; of further ones, the 10th, 100th, … are named"}.get(count, "")
            note = f"; {count:,} so far" if count > NAMED else further
            logger.warning(f"step {step}: {names} not finite; the step was skipped{note}")
        if self.position.bad_in_a_row >= self.limit:
            raise NotFinite(f"training stopped at step {step}: {self.limit} losses in a row were not finite ({names})")
