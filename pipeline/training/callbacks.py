"""What the training loop calls in the process that writes: scores, sample pictures and checkpoints."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.engines.base import Engine
from pipeline.reporting.tiles import Tile, save_png
from pipeline.runs.checkpoint import TranslatorStates, all_finite_weights, random_state
from pipeline.runs.folder import RunFolder
from pipeline.tracking.tracker import Tracker
from pipeline.training.failure_monitor import FailureMonitor
from pipeline.training.loop import Callbacks, Metrics, NotFinite
from pipeline.training.resume import History
from pipeline.training.schedule import Schedule, TrainerState
from pipeline.training.validation import Validation
from pipeline.training.validation_scores import direction_score
from pipeline.utils.console import ProgressBar, bar

SILENT_CALLBACKS = Callbacks(  # for every process but the first, which alone writes and validates
    log=lambda metrics, step: None,
    validate=lambda: ({}, {}),
    sample=lambda epochs, step: None,
    save=lambda position, best: None,
    bar=lambda done, total: bar(disable=True),
)


@dataclass(frozen=True)
class TrainedRun:
    """What is trained, how far it is, and how it came there (`pipeline.training.resume`); the state changes."""

    folder: RunFolder
    engine: Engine
    schedule: Schedule
    position: TrainerState
    history: History


def make_callbacks(
    trained: TrainedRun,
    validation: Validation,
    monitor: FailureMonitor,
    tracker: Tracker,
    checkpoint_entries: Mapping[str, Any],
    *,
    sample_slices: int,
    oriented: bool,
    quiet: bool,
) -> Callbacks:
    """Return the callbacks of the training loop.

    `checkpoint_entries` is what all checkpoints of the run hold, besides the state of its training; `oriented` says
    whether left and right are known in the data.
    """
    folder, engine, position, contrasts = trained.folder, trained.engine, trained.position, validation.contrasts
    start: TranslatorStates = {}  # from the validation before the first step to the first checkpoint, which keeps them

    def translators() -> dict[str, nn.Module]:
        return {contrast: engine.translators()[side] for side, contrast in zip("ab", contrasts, strict=True)}

    def translator_states() -> TranslatorStates:
        return {contrast: network.state_dict() for contrast, network in translators().items()}

    def log(metrics: Metrics, step: int) -> None:
        tracker.log_metrics(metrics, step)
        monitor.discriminators.record(metrics)

    def validate() -> tuple[Metrics, dict[str, float]]:
        shares = validation.choose_correction_shares(translators())
        if position.step == 0:  # with the shares that the scores are of
            start.update(copy.deepcopy(translator_states()))
        metrics = validation.scores(translators()) | shares | monitor.discriminators.metrics()
        monitor(metrics, position.step // trained.schedule.steps_per_epoch)
        return metrics, {to: direction_score(metrics, folder.direction(contrasts, to)) for to in contrasts}

    def sample(epoch: int, step: int) -> None:
        panels = validation.panels(translators(), sample_slices, oriented=oriented)
        for target, panel in panels.items():
            direction = folder.direction(contrasts, target)
            save_sample(folder.samples, direction, epoch, panel)
            tracker.log_image(f"samples/{direction}", panel, step)

    def save(trainer_state: dict[str, Any], best: Collection[str]) -> None:
        if not all_finite_weights(engine.networks().values()):  # the earlier checkpoint stays
            raise NotFinite(f"training stopped at step {trainer_state['step']}: weights are no longer finite")
        state = {
            **checkpoint_entries,
            "translators": translator_states(),
            "engine": engine.state_dict(),
            "position": trainer_state,
            "random": random_state(),
            "mlflow_run_id": tracker.run_id,
        }
        folder.checkpoints.save(state, best=best, start=start)
        start.clear()

    def progress_bar(done: int, total: int) -> ProgressBar:
        return bar(initial=done, total=total, desc="training", unit="step", disable=quiet)

    return Callbacks(log=log, validate=validate, sample=sample, save=save, bar=progress_bar)


def save_sample(folder: Path, direction: str, epoch: int, panel: Tile) -> Path:
    """Write a sample panel to the path that the training GIF reads, and return it."""
    path = folder / direction / f"epoch-{epoch:05d}.png"
    save_png(panel, path)
    return path
