"""The address of a model, and the checkpoint that it names."""

from pathlib import Path
from typing import Any

from pipeline.utils.arguments import cwd_hint
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file, is_folder

MLFLOW_SCHEMES = ("runs:/", "models:/")
ADDRESSES_OF_MLFLOW = "runs:/RUN_ID/MODEL or models:/NAME@ALIAS"
LATEST = "latest.pt"
BY_PREFERENCE = ("best.pt", LATEST, "previous.pt")  # names that `pipeline.runs.checkpoint.CheckpointFolder` gives
CHECKPOINTS, CONFIG = "checkpoints", "config.yaml"  # within a run's folder
BOX = "box"  # the address of the model that comes with the package
BOX_FILE = Path(__file__).with_name("box.pt")


def checkpoint_at(path: Path) -> Path:
    """Return the checkpoint that a path names.

    A file is the checkpoint itself. Of a run's folder or its `checkpoints` it is the best one, or the latest where the
    run's configuration has that evaluated. `BOX` is the model that comes with the package, where no path has that name.

    Raises:
        UserError: the path does not exist, or is a folder without a checkpoint.
    """
    if is_file(path):
        return path
    if not is_folder(path):
        if str(path) == BOX:
            return BOX_FILE
        raise UserError(
            f"{path}: no such model{cwd_hint(path)}; give a run's folder, a checkpoint, {BOX}, {ADDRESSES_OF_MLFLOW}"
        )
    for run, folder in ((path, path / CHECKPOINTS), (path.parent, path)):
        names = [name for name in BY_PREFERENCE if is_file(folder / name)]
        if LATEST in names and _saved_config(run).get("evaluation", {}).get("checkpoint") == "latest":
            return folder / LATEST
        if names:
            return folder / names[0]
    if is_file(path / "configs" / "metadata.json"):
        raise UserError(
            f"{path}: a MONAI bundle, which `python -m monai.bundle run` translates with; give the run it is of"
        )
    raise UserError(f"{path}: no checkpoint in this folder; give the folder of a run that has trained")


def files_at(path: Path) -> list[Path]:
    """Return the files that hold a model's weights: its checkpoint, or an exported file and an OpenVINO graph's .bin.

    Raises:
        UserError: as `checkpoint_at`.
    """
    checkpoint = checkpoint_at(path)
    weights = checkpoint.with_suffix(".bin")
    return [checkpoint, weights] if checkpoint.suffix.lower() == ".xml" and is_file(weights) else [checkpoint]


def run_that_evaluates(checkpoint: Path) -> Path | None:
    """Return the folder of the run whose figures are those of a checkpoint; None for another one, or elsewhere."""
    folder = checkpoint.absolute().parent
    is_evaluated = folder.name == CHECKPOINTS and checkpoint_at(folder) == checkpoint.absolute()
    return folder.parent if is_evaluated else None


def _saved_config(run: Path) -> dict[str, Any]:
    """Return the configuration that a run saved; empty where it cannot be read: the checkpoint has its own."""
    import yaml  # a tenth of the time that a refusal takes

    try:
        content = yaml.safe_load((run / CONFIG).read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
