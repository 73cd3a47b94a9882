"""The history of a run's training: the weights it began with, and changes of its schedule.

It is plain data in checkpoints, and sentences made of it:

    {"started_from": {"run", "path", "step", "sha256", "method"}, "extensions": [{"step", "from", "to"}, …]}

`started_from` also has `held_out_seen` if the weights were trained with validation or test subjects: their number.
`from` and `to` of an extension are [epochs at the constant learning rate, epochs in which it falls to 0].
"""

from collections.abc import Mapping

from pipeline.config.schema import Config
from pipeline.runs.folder import RunFolder
from pipeline.utils.errors import UserError

History = dict[str, object]


def history_of(state: Mapping, config: Config) -> History:
    """Return a checkpoint's history, with a further extension if the configuration's schedule is another."""
    history = dict(state.get("history", {}))
    old_schedule, new_schedule = (
        schedule_epochs(state["config"]["training"]),
        schedule_epochs(config.training.model_dump()),
    )
    if old_schedule != new_schedule:
        extension = {"step": state["position"]["step"], "from": old_schedule, "to": new_schedule}
        history["extensions"] = [*history.get("extensions", []), extension]
    return history


def schedule_epochs(training: Mapping) -> list[int]:
    """Return the number of epochs at the constant learning rate, and of those in which it falls."""
    return [training["epochs"], training["decay_epochs"]]


def require_epochs(state: Mapping, config: Config, folder: RunFolder) -> None:
    """Refuse a schedule that is shorter than what is trained, or that changes only epochs that are trained.

    Raises:
        UserError: the schedule is refused; the message gives the number of epochs that would continue.
    """
    trained, old_schedule = state["position"]["epochs"], schedule_epochs(state["config"]["training"])
    new_schedule = schedule_epochs(config.training.model_dump())
    setting = f"training.epochs = {new_schedule[0]} and training.decay_epochs = {new_schedule[1]}"
    go_on = f"set {trained + 1} or more in all to train on, or another output"
    if sum(new_schedule) < trained:
        raise UserError(
            f"{folder.path}: {trained} epochs are trained already, and {setting} are {sum(new_schedule)} in "
            f"all; {go_on}"
        )
    if old_schedule != new_schedule and sum(new_schedule) == sum(old_schedule) == trained:
        raise UserError(
            f"{folder.path}: all {trained} epochs are trained already, with training.epochs = {old_schedule[0]} and "
            f"training.decay_epochs = {old_schedule[1]}, and {setting} are as many; {go_on}"
        )


def extension_text(extension: Mapping) -> str:
    """Return how a schedule changed: "extended from 25 to 40 epochs at step 5,000"."""
    old_epochs, new_epochs, step = sum(extension["from"]), sum(extension["to"]), extension["step"]
    verb = "extended" if new_epochs > old_epochs else "shortened" if new_epochs < old_epochs else "divided anew,"
    return f"{verb} from {_epochs(extension['from'])} to {_epochs(extension['to'])} epochs at step {step:,}"


def start_text(start: Mapping) -> str:
    """Return a description of the weights that a run began with."""
    held_out_count = start.get("held_out_seen")
    warning = (
        f"; trained with {held_out_count} of this run's validation and test subjects, by their names"
        if held_out_count
        else ""
    )
    source = f"{start['run']} ({start['method']}), step {start['step']:,}"
    return f"{source}: {start['path']}, SHA-256 {start['sha256']}{warning}"


def history_texts(history: Mapping) -> dict[str, str]:
    """Return a run's history as sentences by name, for reports and MLflow tags; empty for most runs."""
    texts = {}
    if "started_from" in history:
        texts["started from"] = start_text(history["started_from"])
    if "extensions" in history:
        texts["schedule"] = "; ".join(map(extension_text, history["extensions"]))
    return texts


def _epochs(schedule: list[int]) -> str:
    constant, decay = schedule
    return f"{constant + decay} ({constant} + {decay} of decay)" if decay else str(constant)
