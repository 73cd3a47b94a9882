"""What a model's address names: a checkpoint on disk, or something of MLflow's. Torch is not needed to find out."""

from pathlib import Path

from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file, is_folder
from pipeline.utils.paths import cwd_hint

MLFLOW_SCHEMES = ("runs:/", "models:/")
ADDRESSES_OF_MLFLOW = "runs:/RUN_ID/MODEL or models:/NAME@ALIAS"
LATEST = "latest.pt"
BY_WORTH = ("best.pt", LATEST, "previous.pt")  # `pipeline.runs.checkpoint.CheckpointFolder` has them under these names


def require_model(uri: str) -> None:
    """Refuse an address at which there is no checkpoint; MLflow's are not looked at.

    Raises:
        UserError: as `checkpoint_at`.
    """
    if not uri.startswith(MLFLOW_SCHEMES):
        checkpoint_at(Path(uri))


def checkpoint_at(path: Path) -> Path:
    """Return the checkpoint that a path names: that file, or of a run's folder or its `checkpoints` the best one.

    Where the run's configuration has its latest one evaluated, that comes first.

    Raises:
        UserError: nothing is there, or a folder without a checkpoint.
    """
    if is_file(path):
        return path
    if not is_folder(path):
        raise UserError(
            f"{path}: no such model{cwd_hint(path)}; give a run's folder, a checkpoint, {ADDRESSES_OF_MLFLOW}"
        )
    for run, folder in ((path, path / "checkpoints"), (path.parent, path)):
        there = [name for name in BY_WORTH if is_file(folder / name)]
        if LATEST in there and _evaluates_latest(run):
            return folder / LATEST
        if there:
            return folder / there[0]
    raise UserError(f"{path}: no checkpoint in this folder; give the folder of a run that has trained")


def _evaluates_latest(run: Path) -> bool:
    """Whether a run's configuration has its latest checkpoint evaluated; one that cannot be read says nothing."""
    from pipeline.config.load import load_config  # half of the time that a refusal takes
    from pipeline.runs.folder import RunFolder

    config = RunFolder(run).config
    try:
        return is_file(config) and load_config(config).evaluation.checkpoint == "latest"
    except UserError:
        return False
