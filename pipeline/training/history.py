"""What a run's training came from: the weights it began with, and the changes of its schedule. Plain data, which its
checkpoints keep, and what is said of it.

    {"started_from": {"run", "path", "step", "sha256", "method"}, "extensions": [{"step", "from", "to"}, …]}

`started_from` has `held_out_seen` besides, where the weights were trained with validation or test subjects: how many.
`from` and `to` of an extension are [epochs at the constant learning rate, epochs in which it falls to 0].
"""

from collections.abc import Mapping

from pipeline.config.schema import Config
from pipeline.runs.folder import RunFolder
from pipeline.utils.errors import UserError

History = dict[str, object]


def history_of(state: Mapping, config: Config) -> History:
    """Return the history that a checkpoint keeps, with one more extension where the schedule is no longer its own."""
    history = dict(state.get("history", {}))
    before, now = schedule_epochs(state["config"]["training"]), schedule_epochs(config.training.model_dump())
    if before != now:
        extension = {"step": state["position"]["step"], "from": before, "to": now}
        history["extensions"] = [*history.get("extensions", []), extension]
    return history


def schedule_epochs(training: Mapping) -> list[int]:
    """Return the epochs at the constant rate, and those in which it falls."""
    return [training["epochs"], training["decay_epochs"]]


def require_epochs(state: Mapping, config: Config, folder: RunFolder) -> None:
    """Refuse a schedule that ends before what a checkpoint has trained, or changes nothing but what is past.

    Raises:
        UserError: with the number of epochs that would go on.
    """
    trained, before = state["position"]["epochs"], schedule_epochs(state["config"]["training"])
    now = schedule_epochs(config.training.model_dump())
    asked = f"training.epochs = {now[0]} and training.decay_epochs = {now[1]}"
    go_on = f"set {trained + 1} or more in all to train on, or another output"
    if sum(now) < trained:
        raise UserError(
            f"{folder.path}: {trained} epochs are trained already, and {asked} are {sum(now)} in all; {go_on}"
        )
    if before != now and sum(now) == sum(before) == trained:
        raise UserError(
            f"{folder.path}: all {trained} epochs are trained already, with training.epochs = {before[0]} and "
            f"training.decay_epochs = {before[1]}, and {asked} are as many; {go_on}"
        )


def extension_text(extension: Mapping) -> str:
    """Say how a schedule changed: "extended from 25 to 40 epochs at step 5,000"."""
    before, now, step = sum(extension["from"]), sum(extension["to"]), extension["step"]
    verb = "extended" if now > before else "shortened" if now < before else "divided anew,"
    return f"{verb} from {_epochs(extension['from'])} to {_epochs(extension['to'])} epochs at step {step:,}"


def start_text(start: Mapping) -> str:
    """Say whose weights a run began with."""
    seen = start.get("held_out_seen")
    warned = f"; trained with {seen} of this run's validation and test subjects, by their names" if seen else ""
    whose = f"{start['run']} ({start['method']}), step {start['step']:,}"
    return f"{whose}: {start['path']}, SHA-256 {start['sha256']}{warned}"


def history_texts(history: Mapping) -> dict[str, str]:
    """Return a run's history as name -> sentence, for reports and for tags of its MLflow run; empty for most runs."""
    texts = {}
    if "started_from" in history:
        texts["started from"] = start_text(history["started_from"])
    if "extensions" in history:
        texts["schedule"] = "; ".join(map(extension_text, history["extensions"]))
    return texts


def _epochs(schedule: list[int]) -> str:
    constant, decay = schedule
    return f"{constant + decay} ({constant} + {decay} of decay)" if decay else str(constant)
