"""What a sitting of a run begins with: the run's own checkpoint, the weights of another run, or nothing."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.config.schema import Config
from pipeline.data.splits import CohortSplit
from pipeline.engines.protocol import Engine
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData, training_data
from pipeline.training.history import History, extension_text, history_of, history_texts, require_epochs, start_text
from pipeline.training.initial_weights import Start, read_start
from pipeline.training.loop import Schedule
from pipeline.training.trainer_state import TrainerState
from pipeline.utils.console import echo
from pipeline.utils.distributed import World
from pipeline.utils.errors import UserError


@dataclass(frozen=True)
class Opening:
    """What is there when a sitting begins.

    Attributes:
        state: The newest checkpoint; None where nothing is trained.
        start: The weights of another run, where this one begins with them.
        history: What the training came from, `pipeline.training.history`.
    """

    state: Mapping | None
    start: Start | None = None
    history: History = field(default_factory=dict)

    @property
    def position(self) -> TrainerState:
        """How far training has come."""
        return TrainerState() if self.state is None else TrainerState(**self.state["position"])

    def load_into(self, engine: Engine) -> None:
        """Give an engine the state, or the weights, that there are."""
        if self.state is not None:
            engine.load_state_dict(self.state["engine"])
        elif self.start is not None:
            engine.load_learnt(self.start.weights)

    def tags(self) -> dict[str, str]:
        """Return tags of the MLflow run that say what the training came from."""
        return {name.replace(" ", "_"): text for name, text in history_texts(self.history).items()}

    def beside(self, split: CohortSplit) -> "Opening":
        """Return the same, with what `Start.beside` finds out from the split on record."""
        if self.start is None:
            return self
        start = self.start.beside(split)
        return replace(self, start=start, history={**self.history, "started_from": dict(start.record)})

    def announce(self, config: Config, folder: RunFolder, schedule: Schedule) -> None:
        """Say what the sitting begins with, and what it is about to do."""
        position = self.position
        if self.start is not None:
            echo(f"starting from the weights of {start_text(self.start.record)}")
        if position.epochs >= schedule.epochs:
            echo(f"{folder.path}: training is complete; evaluating again")
        elif self.state is not None:
            echo(f"continuing {folder.path} after step {position.step:,}")
        else:
            echo(f"training {config.name}: {config.method.type}, {schedule.epochs:,} epochs of "
                f"{schedule.steps_per_epoch:,} steps → {folder.path}")  # fmt: skip
        if self.state is not None and self.history != self.state.get("history", {}):
            _announce_extension(self.history["extensions"][-1], config, schedule, position.step)


def open_run(config: Config, folder: RunFolder, world: World) -> Opening:
    """Find what a sitting begins with, before any data are prepared; every process finds it by itself.

    Raises:
        UserError: no checkpoint can be read, more is trained than the schedule asks for, or the weights to begin from
            are not there or do not fit.
    """
    state = world.main_process_first(folder.checkpoints.load_newest)
    try:
        if state is not None:
            require_epochs(state, config, folder)
            return Opening(state, history=history_of(state, config))
        start = read_start(config)
    except UserError as error:
        world.refuse(str(error))
    if world.is_main and not folder.has_trained():  # pictures of a sitting that saved nothing
        shutil.rmtree(folder.samples, ignore_errors=True)
    return Opening(None, start, {} if start is None else {"started_from": dict(start.record)})


def require_alike(world: World, prepared: PreparedData, engine: Engine, position: TrainerState) -> None:
    """Refuse to train together from different data, networks or positions: gradients would be averaged all the same.

    Raises:
        UserError: the processes, perhaps on different machines, have not all found the same.
    """
    if world.size == 1:
        return
    found = hashlib.sha256(json.dumps([training_data(prepared), position.step]).encode())
    for network in engine.networks().values():
        for weight in network.parameters():
            found.update(weight.detach().cpu().numpy().tobytes())
    digests = world.all_gather_object(int.from_bytes(found.digest()[:7]))
    if len(set(digests)) > 1:
        other = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
        world.refuse(
            f"process {other} found other data, another checkpoint or other initial weights than process 0; let all "
            "machines see the same files (data, preprocess.store, output), with the same versions installed"
        )


def _announce_extension(extension: Mapping, config: Config, schedule: Schedule, step: int) -> None:
    """Say with which learning rate a changed schedule goes on: it is the new schedule's at this step."""
    if step >= schedule.steps:
        echo(extension_text(extension))
        return
    constant, decay = extension["from"]
    earlier = replace(schedule, constant_epochs=constant, decay_epochs=decay)
    rate = config.training.learning_rate
    last, following = (rate * one.learning_rate_factor(at) for one, at in ((earlier, step - 1), (schedule, step)))
    said = f"the learning rate was {last:.3g} and goes on at {following:.3g}, {_rest_of(schedule, step)}"
    echo(f"{extension_text(extension)}: {said}")


def _rest_of(schedule: Schedule, step: int) -> str:
    """Say what becomes of the learning rate after a step."""
    falling = f"falling to 0 by epoch {schedule.epochs:,}"
    if not schedule.decay_epochs:
        rest = "constant to the end"
    elif step >= schedule.constant_epochs * schedule.steps_per_epoch:
        rest = falling
    else:
        rest = f"constant until epoch {schedule.constant_epochs:,}, then {falling}"
    return rest + (f", and halved every {schedule.halve_every:,} steps" if schedule.halve_every else "")
