"""The history of a run's training: the weights it began with, and changes of its schedule.

It is plain data in checkpoints, and sentences made of it:

    {"started_from": {"run", "path", "step", "sha256", "method"}, "extensions": [{"step", "from", "to"}, …]}

`started_from` also has `held_out_seen` if the weights were trained with validation or test subjects: their number.
`from` and `to` of an extension are [epochs at the constant learning rate, epochs in which it falls to 0].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.utils.errors import UserError

History = dict[str, Any]


def history_of(state: Mapping[str, Any], epochs: Sequence[int]) -> History:
    """Return a checkpoint's history, with a further extension if the schedule has changed to `epochs`."""
    history = dict(state.get("history", {}))
    if (old_epochs := _epochs_of(state)) != [*epochs]:
        extension = {"step": state["position"]["step"], "from": old_epochs, "to": [*epochs]}
        history["extensions"] = [*history.get("extensions", []), extension]
    return history


def require_epochs(state: Mapping[str, Any], epochs: Sequence[int], folder: Path) -> None:
    """Refuse a schedule that is shorter than what is trained, or that changes only epochs that are trained.

    Args:
        state: The newest checkpoint of the run.
        epochs: Number of epochs at the constant learning rate, and of those in which it falls.
        folder: Folder of the run, for the message.

    Raises:
        UserError: the schedule is refused; the message gives the number of epochs that would continue.
    """
    trained, old_epochs = state["position"]["epochs"], _epochs_of(state)
    setting = f"training.epochs = {epochs[0]} and training.decay_epochs = {epochs[1]}"
    go_on = f"set {trained + 1} or more in all to train on, or another output"
    if sum(epochs) < trained:
        raise UserError(
            f"{folder}: {trained} epochs are trained already, and {setting} are {sum(epochs)} in all; {go_on}"
        )
    if old_epochs != [*epochs] and sum(epochs) == sum(old_epochs) == trained:
        raise UserError(
            f"{folder}: all {trained} epochs are trained already, with training.epochs = {old_epochs[0]} and "
            f"training.decay_epochs = {old_epochs[1]}, and {setting} are as many; {go_on}"
        )


def extension_text(extension: Mapping[str, Any]) -> str:
    """Return how a schedule changed: "extended from 25 to 40 epochs at step 5,000"."""
    old_epochs, new_epochs, step = sum(extension["from"]), sum(extension["to"]), extension["step"]
    verb = "extended" if new_epochs > old_epochs else "shortened" if new_epochs < old_epochs else "divided anew,"
    return f"{verb} from {_text(extension['from'])} to {_text(extension['to'])} epochs at step {step:,}"


def start_text(start: Mapping[str, Any]) -> str:
    """Return a description of the weights that a run began with."""
    count = start.get("held_out_seen")
    warning = f"; trained with {count} of this run's validation and test subjects, by their names" if count else ""
    source = f"{start['run']} ({start['method']}), step {start['step']:,}"
    return f"{source}: {start['path']}, SHA-256 {start['sha256']}{warning}"


def history_texts(history: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's history as sentences by name, for reports and MLflow tags; empty for most runs."""
    texts = {}
    if "started_from" in history:
        texts["started from"] = start_text(history["started_from"])
    if "extensions" in history:
        texts["schedule"] = "; ".join(map(extension_text, history["extensions"]))
    return texts


def _epochs_of(state: Mapping[str, Any]) -> list[int]:
    return [state["config"]["training"][name] for name in ("epochs", "decay_epochs")]


def _text(epochs: Sequence[int]) -> str:
    constant, decay = epochs
    return f"{constant + decay} ({constant} + {decay} of decay)" if decay else str(constant)
