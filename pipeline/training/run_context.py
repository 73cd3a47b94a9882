"""The objects of a run that its functions share."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from pipeline.config.schema import Config
from pipeline.data.pairs import PairReader
from pipeline.engines.base import Engine
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData, chain_settings, registrations
from pipeline.tracking.tracker import Tracker
from pipeline.training.failure_monitor import FailureMonitor
from pipeline.training.history import History
from pipeline.training.schedule import Schedule, TrainerState, schedule_of
from pipeline.utils.distributed import SINGLE_PROCESS, World
from transforms.slices import AXES


@dataclass(frozen=True)
class RunContext:
    """A run in one process; `position` changes as it trains.

    Attributes:
        config: The configuration.
        folder: The run folder.
        prepared: The prepared data.
        engine: The method with its networks.
        position: The trainer state.
        reader: Reads and registers pairs.
        tracker: Writes metrics and artifacts.
        device: Device of the networks.
        quiet: Whether to hide progress bars.
        world: The processes that train together.
        history: History of the training, see `pipeline.training.history`.
    """

    config: Config
    folder: RunFolder
    prepared: PreparedData
    engine: Engine
    position: TrainerState
    reader: PairReader
    tracker: Tracker
    device: torch.device
    quiet: bool
    world: World = SINGLE_PROCESS
    history: History = field(default_factory=dict)

    def translators(self) -> dict[str, nn.Module]:
        """Return the present translators, by target contrast."""
        translators = self.engine.translators()
        return {contrast: translators[side] for side, contrast in zip("ab", self.config.contrasts, strict=True)}

    @property
    def histograms(self) -> dict[str, list[float]]:
        """Histogram of the training cohort's foreground over [-1, 1], by contrast."""
        return {contrast: statistics.histogram for contrast, statistics in self.prepared.statistics.items()}

    @property
    def pixel_mm(self) -> float:
        """The longer side of a pixel in mm: as configured, or the largest of the training volumes."""
        preprocess = self.config.preprocess
        if preprocess.spacing_mm is not None:
            return preprocess.spacing_mm.in_plane
        spacings = [statistics.spacing_mm for statistics in self.prepared.statistics.values()]
        return float(np.delete(spacings, AXES[preprocess.axis], axis=1).max())

    @property
    def schedule(self) -> Schedule:
        """The training schedule for this cohort."""
        return schedule_of(self.config.training, self.prepared.longest)

    def failure_monitor(self) -> FailureMonitor:
        """Return the monitor of the validations, which knows the earlier warnings of the run."""
        schedule = self.schedule
        return FailureMonitor(
            self.folder.metrics,
            epochs=schedule.epochs,
            validate_every=schedule.validate_every_epochs,
            pixel_mm=self.pixel_mm,
            tag=self.tracker.set_tags,
        )


def pair_reader(config: Config, version: int, engine: Engine) -> PairReader:
    """Return the reader of volumes and pairs, padded for the engine's translators."""
    return PairReader(
        chain_settings(config.preprocess, version),
        max(network.stride for network in engine.translators().values()),
        register=config.evaluation.register_pairs,
        cache=registrations(config.preprocess.store),
    )
