"""The starting point of a run (its own checkpoint, the weights of another run, or fresh networks) and its history.

The history is plain data in checkpoints, and sentences made of it:

    {"started_from": {"run", "path", "step", "sha256", "method"}, "extensions": [{"step", "from", "to"}, …]}

`started_from` also has `held_out_seen` if the weights were trained with validation or test subjects: their number.
`pairs` are the subjects that unpaired training had in both contrasts, as `split.pairs` asked for; absent without them.
`from` and `to` of an extension are [epochs at the constant learning rate, epochs in which it falls to 0].
"""

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.splits import CohortSplit
from pipeline.runs.folder import RunFolder
from pipeline.training.initial_weights import InitialWeights
from pipeline.training.schedule import Schedule, TrainerState
from pipeline.utils.distributed import World
from pipeline.utils.errors import UserError

if TYPE_CHECKING:  # `pipeline.compare` reads histories without torch
    from pipeline.engines.base import Engine

logger = logging.getLogger(__name__)
History = dict[str, Any]


@dataclass(frozen=True)
class StartingPoint:
    """The state from which a run starts or continues."""

    state: Mapping[str, Any] | None  # the newest checkpoint; None before training
    weights: InitialWeights | None = None  # of another run, to begin from
    history: History = field(default_factory=dict)

    @property
    def position(self) -> TrainerState:
        """The trainer state of the checkpoint, or a new one; scores by which earlier versions chose are left out."""
        saved = {} if self.state is None else self.state["position"]
        return TrainerState(**{name: value for name, value in saved.items() if name != "best_score"})

    def load_into(self, engine: "Engine") -> None:
        """Load the checkpoint or the initial weights, if any, into an engine."""
        if self.state is not None:
            engine.load_state_dict(self.state["engine"])
        elif self.weights is not None:
            self.weights.load_into(engine)

    def with_split(self, split: CohortSplit) -> "StartingPoint":
        """Return a copy with `InitialWeights.with_overlap`, and with a history that names the split's pairs, if any."""
        history, weights = dict(self.history), self.weights
        if weights is not None:
            weights = weights.with_overlap(split)
            history["started_from"] = dict(weights.record)
        if split.pairs:
            history["pairs"] = sorted({case.subject for case in split.pairs})
        return replace(self, weights=weights, history=history)


def find_starting_point(
    folder: RunFolder, world: World, epochs: Sequence[int], read_weights: Callable[[], InitialWeights | None]
) -> StartingPoint:
    """Return the starting point, before any data are prepared; every process reads it by itself.

    `epochs` are those at the constant learning rate, and those in which it falls; `read_weights` returns the weights of
    another run to begin from, or None.

    Raises:
        UserError: no checkpoint can be read, more is trained than the schedule asks for, or the weights to begin from
            do not exist or do not fit.
    """
    state = world.main_process_first(folder.checkpoints.load_newest)
    try:
        if state is not None:
            _require_epochs(state, epochs, folder.path)
            return StartingPoint(state, history=_history_of(state, epochs))
        weights = read_weights()
    except UserError as error:
        world.refuse(str(error))
    if world.is_main and not folder.has_trained():  # pictures of a process that saved no checkpoint
        shutil.rmtree(folder.samples, ignore_errors=True)
    return StartingPoint(None, weights, {} if weights is None else {"started_from": dict(weights.record)})


def require_schedule(folder: RunFolder, epochs: Sequence[int]) -> None:
    """Refuse what `find_starting_point` refuses of a run's own checkpoint; the folder stays as it is."""
    state = folder.checkpoints.load_newest(read_only=True)
    if state is not None:
        _require_epochs(state, epochs, folder.path)


def _history_of(state: Mapping[str, Any], epochs: Sequence[int]) -> History:
    """Return a checkpoint's history, with a further extension if the schedule has changed to `epochs`."""
    history = dict(state.get("history", {}))
    if (old_epochs := _epochs_of(state)) != [*epochs]:
        extension = {"step": state["position"]["step"], "from": old_epochs, "to": [*epochs]}
        history["extensions"] = [*history.get("extensions", []), extension]
    return history


def _require_epochs(state: Mapping[str, Any], epochs: Sequence[int], folder: Path) -> None:
    """Refuse a schedule that is shorter than what is trained, or that changes only epochs that are trained."""
    trained, old_epochs = state["position"]["epochs"], _epochs_of(state)
    setting = f"training.epochs = {epochs[0]} and training.decay_epochs = {epochs[1]}"
    remedy = f"set {trained + 1} or more in all to train on, or another output"
    if sum(epochs) < trained:
        raise UserError(
            f"{folder}: {trained} epochs are trained already, and {setting} are {sum(epochs)} in all; {remedy}"
        )
    if old_epochs != [*epochs] and sum(epochs) == sum(old_epochs) == trained:
        raise UserError(
            f"{folder}: all {trained} epochs are trained already, with training.epochs = {old_epochs[0]} and "
            f"training.decay_epochs = {old_epochs[1]}, and {setting} are as many; {remedy}"
        )


def _epochs_of(state: Mapping[str, Any]) -> list[int]:
    return [state["config"]["training"][name] for name in ("epochs", "decay_epochs")]


def announce(start: StartingPoint, folder: RunFolder, schedule: Schedule, title: str, learning_rate: float) -> None:
    """Print what a run starts from, and what it is about to do; `title` names the run and its method."""
    position = start.position
    if start.weights is not None:
        logger.info(f"starting from the weights of {start_text(start.weights.record)}")
    if position.epochs >= schedule.epochs:
        logger.info(f"{folder.path}: training is complete; evaluating again")
    elif start.state is not None:
        logger.info(f"continuing {folder.path} after step {position.step:,}")
    else:
        length = f"{schedule.epochs:,} epochs of {schedule.steps_per_epoch:,} steps"
        logger.info(f"training {title}, {length} → {folder.path}")
    if start.state is not None and start.history != start.state.get("history", {}):
        extension, rates = start.history["extensions"][-1], ""
        if position.step < schedule.steps:
            constant, decay = extension["from"]
            old_schedule = replace(schedule, constant_epochs=constant, decay_epochs=decay)
            last_rate = learning_rate * old_schedule.learning_rate_factor(position.step - 1)
            next_rate = learning_rate * schedule.learning_rate_factor(position.step)
            rates = f": the learning rate was {last_rate:.3g} and goes on at {next_rate:.3g}"
        logger.info(f"{extension_text(extension)}{rates}")


def require_alike(world: World, data: str, engine: "Engine") -> None:
    """Refuse to train together from different data, networks or steps, whose gradients must not be averaged.

    `data` describes this process's training data and step.

    Raises:
        UserError: the processes, perhaps on different machines, differ.
    """
    if world.size == 1:
        return
    digest = hashlib.sha256(data.encode())
    for network in engine.networks().values():
        for weight in network.parameters():
            digest.update(weight.detach().cpu().numpy().tobytes())
    digests = world.all_gather_int(int.from_bytes(digest.digest()[:7]))
    if len(set(digests)) > 1:
        differing_rank = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
        world.refuse(
            f"process {differing_rank} found other data, another checkpoint or other initial weights than process 0; "
            "let all machines see the same files (data, preprocess.store, output), with the same versions installed"
        )


def advice_after_not_finite(folder: RunFolder, position: TrainerState, *, half_precision: bool) -> str:
    """Return what is saved of a run whose losses or weights were not finite, what to change, and where.

    If no step succeeded, the learning rate is not the cause. Without a checkpoint the run's folder accepts any
    settings.
    """
    if position.bad_steps >= position.step:
        data_or_method = "look at the data (pipeline.explore) and method's keys"
        change = "use training.precision=float32" if half_precision else data_or_method
        advice = f"not one step succeeded, so the learning rate is not the cause; {change}"
    else:
        advice = "lower training.learning_rate" + (", or use training.precision=float32" if half_precision else "")
    if not folder.has_checkpoint():
        return f"nothing is saved yet; {advice}: the same command with it begins anew"
    return f"the last good checkpoint is kept ({folder.checkpoints.latest}); {advice}{new_output_advice(folder)}"


def new_output_advice(folder: RunFolder) -> str:
    """Return how to change a setting that a trained run's folder no longer accepts; "" before it has trained."""
    if not folder.has_checkpoint():
        return ""
    return f", in a new output: with training.start_from={folder.path} it begins from this run's weights"


def extension_text(extension: Mapping[str, Any]) -> str:
    """Return how a schedule changed: "extended from 25 to 40 epochs at step 5,000"."""
    old_epochs, new_epochs, step = sum(extension["from"]), sum(extension["to"]), extension["step"]
    verb = "extended" if new_epochs > old_epochs else "shortened" if new_epochs < old_epochs else "divided anew,"
    return f"{verb} from {_text(extension['from'])} to {_text(extension['to'])} epochs at step {step:,}"


def _text(epochs: Sequence[int]) -> str:
    constant, decay = epochs
    return f"{constant + decay} ({constant} + {decay} of decay)" if decay else str(constant)


def start_text(start: Mapping[str, Any]) -> str:
    """Return a description of the weights that a run began with."""
    count = start.get("held_out_seen")
    warning = f"; trained with {count} of this run's validation and test subjects, by their names" if count else ""
    source = f"{start['run']} ({start['method']}), step {start['step']:,}"
    return f"{source}: {start['path']}, SHA-256 {start['sha256']}{warning}"


def pairs_text(subjects: Sequence[str]) -> str:
    """Return what pairs unpaired training had beside it; `subjects` may name sessions, "subject/session"."""
    names = sorted({name.partition("/")[0] for name in subjects})
    return (
        f"{len(names)} training subject{'s' if len(names) > 1 else ''} in both contrasts, as pairs: {', '.join(names)}"
    )


def history_texts(history: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's history as sentences by name, for reports and MLflow tags; empty for most runs."""
    texts = {}
    if "started_from" in history:
        texts["started from"] = start_text(history["started_from"])
    if "pairs" in history:
        texts["pairs beside"] = pairs_text(history["pairs"])
    if "extensions" in history:
        texts["schedule"] = "; ".join(map(extension_text, history["extensions"]))
    return texts
