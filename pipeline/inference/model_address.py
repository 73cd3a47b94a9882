"""The address of a model: a checkpoint on disk, or a model in MLflow. Resolving it does not import torch."""

from pathlib import Path

from pipeline.utils.arguments import cwd_hint
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file, is_folder

MLFLOW_SCHEMES = ("runs:/", "models:/")
ADDRESSES_OF_MLFLOW = "runs:/RUN_ID/MODEL or models:/NAME@ALIAS"
LATEST = "latest.pt"
BY_PREFERENCE = (
    "best.pt",
    LATEST,
    "previous.pt",
)  # `pipeline.runs.checkpoint.CheckpointFolder` has them under these names


def require_model(uri: str) -> None:
    """Refuse an address without a checkpoint; MLflow's addresses are not checked.

    Raises:
        UserError: as `checkpoint_at`.
    """
    if not uri.startswith(MLFLOW_SCHEMES):
        checkpoint_at(Path(uri))


def checkpoint_at(path: Path) -> Path:
    """Return the checkpoint that a path names.

    A file is the checkpoint itself. Of a run's folder or its `checkpoints` it is the best one, or the latest where the
    run's configuration has that evaluated.

    Raises:
        UserError: the path does not exist, or is a folder without a checkpoint.
    """
    if is_file(path):
        return path
    if not is_folder(path):
        raise UserError(
            f"{path}: no such model{cwd_hint(path)}; give a run's folder, a checkpoint, {ADDRESSES_OF_MLFLOW}"
        )
    for run, folder in ((path, path / "checkpoints"), (path.parent, path)):
        names = [name for name in BY_PREFERENCE if is_file(folder / name)]
        if LATEST in names and _evaluates_latest(run):
            return folder / LATEST
        if names:
            return folder / names[0]
    raise UserError(f"{path}: no checkpoint in this folder; give the folder of a run that has trained")


def _evaluates_latest(run: Path) -> bool:
    """Whether a run's configuration has its latest checkpoint evaluated; False where it cannot be read."""
    from pipeline.config.load import load_config  # half of the time that a refusal takes
    from pipeline.runs.folder import RunFolder

    config = RunFolder(run).config
    try:
        return is_file(config) and load_config(config).evaluation.checkpoint == "latest"
    except UserError:
        return False
