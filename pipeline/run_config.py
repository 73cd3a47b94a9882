"""The configuration of a run's folder: saved there, and compared with the one that would go on with the run."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from pipeline.config.load import resolved_yaml
from pipeline.config.schema import REMOVED_KEYS, Config
from pipeline.runs.folder import RunFolder, differing_keys
from pipeline.utils.console import one_line
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text

# Settings that may change between two sessions of a run, since they do not change what is learnt.
CHANGEABLE = (
    "output", "device", "threads", "tracking", "evaluation", "training.checkpoint_minutes",
    "training.cuda_graph", "training.slices_on_device",
    "preprocess.processes", "preprocess.store", "preprocess.on_bad_volume", "split.file", "data.regions",
)  # fmt: skip
# Numbers of epochs, which may change although they decide what is learnt: finished training stays, the rest follows the
# new schedule (`pipeline.training.resume`).
SCHEDULE = ("training.epochs", "training.decay_epochs")
HEADING = "Resolved configuration of this run"  # the first line of a config.yaml that a run wrote


def open_run_folder(config: Config) -> RunFolder:
    """Return the run's folder, after checking that an earlier session there had the same configuration.

    The numbers of epochs may differ (`SCHEDULE`); where nothing was trained yet, everything may.

    Raises:
        UserError: The folder holds a run of another configuration, or other files.
    """
    folder = RunFolder(config.folder)
    if folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"{folder.path}: is a file; choose another output")
    if not folder.config.exists():
        if folder.path.exists() and any(entry.name != ".lock" for entry in folder.path.iterdir()):
            raise UserError(f"{folder.path}: holds files that are not of a run; choose another output, or empty it")
        return folder
    if not folder.has_trained() and _is_written_by_run(folder.config):
        return folder
    saved_values = _read_config(folder.config)
    new_values = json.loads(json.dumps(config.model_dump(mode="json")))
    differences = [
        f"{key}: {saved_value!r} there, {value!r} now"
        for key, saved_value, value in differing_keys(saved_values, new_values)
        if not _may_change(key, config)
    ]
    if differences:
        weights = (
            f" (there training.start_from={folder.path} begins from its weights)" if folder.has_checkpoint() else ""
        )
        problem = f"{folder.path}: holds a run of another configuration; set output=…{weights}, or move it away"
        raise UserError("\n  ".join([problem, *differences]))
    return folder


def _may_change(key: str, config: Config) -> bool:
    """Whether a setting may change between sessions; the registration of pairs may not if training uses them."""
    if key == "evaluation.register_pairs" and (config.split.pairing == "paired" or config.split.pairs):
        return False
    return any(key == setting or key.startswith(f"{setting}.") for setting in (*CHANGEABLE, *SCHEDULE))


def _is_written_by_run(path: Path) -> bool:
    """Whether a configuration was written by `save_config` and not by the user."""
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.readline().startswith(f"# {HEADING}")
    except (OSError, UnicodeDecodeError):
        return False


def _read_config(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read; move the run's folder away to start anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a run's configuration; move the run's folder away to start anew")
    try:  # keys that the file lacks get their defaults
        return json.loads(json.dumps(Config.model_validate(content).model_dump(mode="json")))
    except ValidationError:
        return content


def is_finished(folder: RunFolder, config: Config) -> bool:
    """Whether the run is trained, evaluated and reported with exactly this configuration.

    `config.yaml` does not show it, since it is written when a session begins; `run.json` is written last.
    """
    try:
        recorded = json.loads(folder.record.read_text(encoding="utf-8"))["configuration"]
        is_same = recorded == fingerprint(config) or recorded == fingerprint(
            config, yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):  # missing or damaged
        return False
    return is_same and folder.scores.is_file() and folder.report.is_file()


def save_config(folder: RunFolder, config: Config, notes: Iterable[str] = ()) -> None:
    """Write the resolved configuration, with which later sessions compare theirs; notes become comments."""
    command = f"python -m pipeline.run {shlex.quote(str(folder.config))}"
    heading = [f"{HEADING}; `{command}` continues it.", *notes]
    comments = "".join(f"# {one_line(line)}\n" for line in heading)
    atomic_text(folder.config, f"{comments}{resolved_yaml(config)}")


def fingerprint(config: Config, saved: Mapping[str, Mapping[str, object]] | None = None) -> str:
    """Return a hash of a configuration without `output`, since a run may be moved.

    Args:
        config: The configuration.
        saved: Configuration of an earlier release, whose removed keys are hashed too, as that release did.
    """
    content = config.model_dump(mode="json", exclude={"output"})
    for section, key in REMOVED_KEYS:
        earlier_values = (saved or {}).get(section, {})
        if key in earlier_values:
            content[section][key] = earlier_values[key]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
