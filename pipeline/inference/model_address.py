"""The address of a model, and what can be refused before torch is imported: the address, the contrast, the device."""

import ctypes
import sys
from collections.abc import Iterable
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
ACCELERATOR_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvgpu")


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
    for run, folder in ((path, path / CHECKPOINTS), (path.parent, path)):
        names = [name for name in BY_PREFERENCE if is_file(folder / name)]
        if LATEST in names and _saved_config(run).get("evaluation", {}).get("checkpoint") == "latest":
            return folder / LATEST
        if names:
            return folder / names[0]
    raise UserError(f"{path}: no checkpoint in this folder; give the folder of a run that has trained")


def require_usable(addresses: Iterable[str], to: str | None, device: str) -> None:
    """Refuse addresses, contrasts and devices that are wrong; MLflow's models are checked when they are loaded.

    Raises:
        UserError: there is no such model, a run's model does not make the contrast, or this machine cannot have the
            device.
    """
    for address in addresses:
        if not address.startswith(MLFLOW_SCHEMES):
            _require_contrast(address, checkpoint_at(Path(address)), to)
    if (device == "cuda" and not _may_have_cuda()) or (device == "mps" and sys.platform != "darwin"):
        raise UserError(f"device {device}: not available on this machine; use --device auto or cpu")


def _require_contrast(address: str, checkpoint: Path, to: str | None) -> None:
    """Refuse a contrast that the configuration of a checkpoint's run does not have."""
    folder = checkpoint.absolute().parent
    if folder.name != CHECKPOINTS:  # a copy elsewhere, where a configuration may be another run's
        return
    contrasts = _saved_config(folder.parent).get("contrasts", ())
    makes = " and ".join(sorted(contrasts))
    if contrasts and to is None:
        raise UserError(f"{address}: the model makes {makes}; name the one to make (--to)")
    if contrasts and to not in contrasts:
        raise UserError(f"{address}: the model does not make {to!r} but {makes}; correct --to")


def _saved_config(run: Path) -> dict[str, Any]:
    """Return the configuration that a run saved; empty where it cannot be read: the checkpoint has its own."""
    import yaml  # a tenth of the time that a refusal takes

    try:
        content = yaml.safe_load((run / CONFIG).read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _may_have_cuda() -> bool:
    """Whether the machine has device files or the driver library of a GPU that torch calls "cuda"."""
    if sys.platform != "linux":
        return sys.platform == "win32"
    if any(Path(name).exists() for name in ACCELERATOR_FILES):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
