"""The starting point of a run: its own checkpoint, the weights of another run, or fresh networks."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.config.schema import Config
from pipeline.data.splits import CohortSplit
from pipeline.engines.base import Engine
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData, training_data
from pipeline.training.history import History, extension_text, history_of, history_texts, require_epochs, start_text
from pipeline.training.initial_weights import InitialWeights, read_initial_weights
from pipeline.training.schedule import Schedule, TrainerState
from pipeline.utils.distributed import World
from pipeline.utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartingPoint:
    """The state from which a run starts or continues.

    Attributes:
        state: The newest checkpoint; None before training.
        start: The weights of another run to begin from; None if there are none.
        history: History of the training, see `pipeline.training.history`.
    """

    state: Mapping | None
    start: InitialWeights | None = None
    history: History = field(default_factory=dict)

    @property
    def position(self) -> TrainerState:
        """The trainer state of the checkpoint, or a new one."""
        return TrainerState() if self.state is None else TrainerState(**self.state["position"])

    def load_into(self, engine: Engine) -> None:
        """Load the checkpoint or the initial weights, if any, into an engine."""
        if self.state is not None:
            engine.load_state_dict(self.state["engine"])
        elif self.start is not None:
            engine.load_pretrained(self.start.weights)

    def tags(self) -> dict[str, str]:
        """Return the training's history as tags of the MLflow run."""
        return {name.replace(" ", "_"): text for name, text in history_texts(self.history).items()}

    def with_overlap(self, split: CohortSplit) -> "StartingPoint":
        """Return a copy with `InitialWeights.with_overlap` of the split."""
        if self.start is None:
            return self
        start = self.start.with_overlap(split)
        return replace(self, start=start, history={**self.history, "started_from": dict(start.record)})

    def announce(self, config: Config, folder: RunFolder, schedule: Schedule) -> None:
        """Print what the run starts from, and what it is about to do."""
        position = self.position
        if self.start is not None:
            logger.info(f"starting from the weights of {start_text(self.start.record)}")
        if position.epochs >= schedule.epochs:
            logger.info(f"{folder.path}: training is complete; evaluating again")
        elif self.state is not None:
            logger.info(f"continuing {folder.path} after step {position.step:,}")
        else:
            logger.info(f"training {config.name}: {config.method.type}, {schedule.epochs:,} epochs of "
                f"{schedule.steps_per_epoch:,} steps → {folder.path}")  # fmt: skip
        if self.state is not None and self.history != self.state.get("history", {}):
            _announce_extension(self.history["extensions"][-1], config, schedule, position.step)


def find_starting_point(config: Config, folder: RunFolder, world: World) -> StartingPoint:
    """Return the starting point, before any data are prepared; every process reads it by itself.

    Raises:
        UserError: no checkpoint can be read, more is trained than the schedule asks for, or the weights to begin from
            do not exist or do not fit.
    """
    state = world.main_process_first(folder.checkpoints.load_newest)
    try:
        if state is not None:
            require_epochs(state, config, folder)
            return StartingPoint(state, history=history_of(state, config))
        start = read_initial_weights(config)
    except UserError as error:
        world.refuse(str(error))
    if world.is_main and not folder.has_trained():  # pictures of a process that saved no checkpoint
        shutil.rmtree(folder.samples, ignore_errors=True)
    return StartingPoint(None, start, {} if start is None else {"started_from": dict(start.record)})


def require_alike(world: World, prepared: PreparedData, engine: Engine, position: TrainerState) -> None:
    """Refuse to train together from different data, networks or steps, whose gradients must not be averaged.

    Raises:
        UserError: the processes, perhaps on different machines, differ.
    """
    if world.size == 1:
        return
    digest = hashlib.sha256(json.dumps([training_data(prepared), position.step]).encode())
    for network in engine.networks().values():
        for weight in network.parameters():
            digest.update(weight.detach().cpu().numpy().tobytes())
    digests = world.all_gather_object(int.from_bytes(digest.digest()[:7]))
    if len(set(digests)) > 1:
        differing_rank = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
        world.refuse(
            f"process {differing_rank} found other data, another checkpoint or other initial weights than process 0; "
            "let all machines see the same files (data, preprocess.store, output), with the same versions installed"
        )


def _announce_extension(extension: Mapping, config: Config, schedule: Schedule, step: int) -> None:
    """Print the learning rate with which a changed schedule continues: the new schedule's at this step."""
    if step >= schedule.steps:
        logger.info(extension_text(extension))
        return
    constant, decay = extension["from"]
    old_schedule = replace(schedule, constant_epochs=constant, decay_epochs=decay)
    rate = config.training.learning_rate
    last_rate, next_rate = (
        rate * schedule_at.learning_rate_factor(at_step)
        for schedule_at, at_step in ((old_schedule, step - 1), (schedule, step))
    )
    rate_text = f"the learning rate was {last_rate:.3g} and goes on at {next_rate:.3g}, {_rate_outlook(schedule, step)}"
    logger.info(f"{extension_text(extension)}: {rate_text}")


def _rate_outlook(schedule: Schedule, step: int) -> str:
    """Return how the learning rate develops after a step."""
    decay_text = f"falling to 0 by epoch {schedule.epochs:,}"
    if not schedule.decay_epochs:
        outlook = "constant to the end"
    elif step >= schedule.constant_epochs * schedule.steps_per_epoch:
        outlook = decay_text
    else:
        outlook = f"constant until epoch {schedule.constant_epochs:,}, then {decay_text}"
    return outlook + (f", and halved every {schedule.halve_every:,} steps" if schedule.halve_every else "")
