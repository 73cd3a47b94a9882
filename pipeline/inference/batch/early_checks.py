"""Checks of a command before torch is imported: the model's address, the contrast, the device."""

import ctypes
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pipeline.inference import model_address as address
from pipeline.inference.model_address import MLFLOW_SCHEMES, checkpoint_at
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file

CHECKPOINTS = "checkpoints"  # a run's folder of them; above a copy elsewhere, a configuration may be another run's
ACCELERATOR_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvgpu")


def require_usable(uris: Iterable[str], to: str | None, device: str) -> None:
    """Refuse addresses, contrasts and devices that are wrong, without loading a model.

    Args:
        uris: The models' addresses.
        to: The contrast to make; None where the user gave none.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        UserError: there is no such model, a run's model does not make the contrast, or this machine cannot have the
            device.
    """
    for uri in uris:
        address.require_model(uri)
        require_contrast(uri, to)
    require_device(device)


def require_contrast(uri: str, to: str | None) -> None:
    """Refuse a contrast that a run's configuration does not have; MLflow's models are checked when they are loaded."""
    from pipeline.config.load import load_config
    from pipeline.runs.folder import RunFolder

    contrasts: tuple[str, ...] = ()
    if not uri.startswith(MLFLOW_SCHEMES):
        with suppress(UserError):  # no configuration, or one of another version: the checkpoint has its own
            folder = checkpoint_at(Path(uri)).absolute().parent
            config = RunFolder(folder.parent).config
            contrasts = load_config(config).contrasts if folder.name == CHECKPOINTS and is_file(config) else ()
    makes = " and ".join(sorted(contrasts))
    if contrasts and to is None:
        raise UserError(f"{uri}: the model makes {makes}; name the one to make (--to)")
    if contrasts and to not in contrasts:
        raise UserError(f"{uri}: the model does not make {to!r} but {makes}; correct --to")


def require_device(device: str) -> None:
    """Refuse a kind of device that this machine cannot have; torch checks later whether it can be used."""
    if (device == "cuda" and not _may_have_cuda()) or (device == "mps" and sys.platform != "darwin"):
        raise UserError(f"device {device}: not available on this machine; use --device auto or cpu")


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
