"""What one process holds of a run while it works on it."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from pipeline.config.schema import Config
from pipeline.data.pairs import PairReader
from pipeline.engines.protocol import Engine
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData
from pipeline.tracking.tracker import Tracker
from pipeline.training.failure_monitor import FailureMonitor
from pipeline.training.history import History
from pipeline.training.loop import Schedule
from pipeline.training.schedule import schedule_of
from pipeline.training.trainer_state import TrainerState
from pipeline.utils.distributed import SINGLE_PROCESS, World
from transforms.slices import AXES


@dataclass(frozen=True)
class Sitting:
    """A run being worked on; `position` moves on as it trains.

    Attributes:
        config: What was asked for.
        folder: Where everything the run makes lies.
        prepared: The data.
        engine: The networks and how they are trained.
        position: How far training has come.
        reader: Reads and registers pairs.
        tracker: The record.
        device: Where the networks are.
        quiet: Whether to leave out progress bars.
        world: The processes that train together.
        history: What the training came from.
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
        """Return the networks that translate, as they are now, by target contrast."""
        translators = self.engine.translators()
        return {contrast: translators[side] for side, contrast in zip("ab", self.config.contrasts, strict=True)}

    @property
    def histograms(self) -> dict[str, list[float]]:
        """By contrast, the training cohort's foreground intensities over [-1, 1]."""
        return {contrast: facts["histogram"] for contrast, facts in self.prepared.statistics.items()}

    @property
    def pixel_mm(self) -> float:
        """The longer side of a pixel that the networks see: the grid asked for, or the training volumes' own."""
        preprocess = self.config.preprocess
        if preprocess.spacing_mm is not None:
            return preprocess.spacing_mm.in_plane
        sizes = [facts["spacing_mm"] for facts in self.prepared.statistics.values()]
        return float(np.delete(sizes, AXES[preprocess.axis], axis=1).max())

    @property
    def schedule(self) -> Schedule:
        """How long and how often, in steps of this cohort."""
        return schedule_of(self.config.training, self.prepared.longest)

    def watch(self) -> FailureMonitor:
        """Return the judge of the validations, who knows what has been warned of."""
        schedule = self.schedule
        return FailureMonitor(
            self.folder.metrics,
            epochs=schedule.epochs,
            validate_every=schedule.validate_every_epochs,
            pixel_mm=self.pixel_mm,
            tag=self.tracker.set_tags,
        )
