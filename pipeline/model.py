"""A trained model as translation needs it: networks, preprocessing and the contrasts' intensities, from any address."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.config.schema import Config, Preprocess
from pipeline.engines.build import build_translators
from pipeline.errors import UserError

FORMAT = 1  # of checkpoint files
MLFLOW_SCHEMES = ("runs:/", "models:/")
CHECKPOINTS = ("best.pt", "latest.pt")  # in a run folder, the first that is there


@dataclass(frozen=True)
class TranslationModel:
    """What translates volumes.

    Attributes:
        contrasts: The two contrasts' names.
        translators: By target contrast, the network (N, 1, H, W) -> (N, 1, H, W) in [-1, 1], in evaluation mode on
            `device`; both directions or one.
        settings: Arguments of `transforms.presets.slice_chain` that training used.
        facts: By contrast, what the training cohort was like: `low` and `high`, the median intensities that became
            -1 and 1, and `integer`, whether files hold whole numbers.
        stride: The networks take heights and widths that are multiples of this.
        device: Where the networks are.
        precision: "float32", or "bf16" or "fp16" for autocast.
        origin: What it is, in a few words, for the headers of translated volumes.
    """

    contrasts: tuple[str, str]
    translators: Mapping[str, nn.Module]
    settings: Mapping[str, object]
    facts: Mapping[str, Mapping[str, object]]
    stride: int
    device: torch.device
    precision: str = "float32"
    origin: str = "contrast translation"

    def target(self, to: str | None) -> str:
        """Return the contrast to make: `to`, or the only one where that is None.

        Raises:
            UserError: the model does not make `to`, or makes several and none was chosen.
        """
        makes = " and ".join(sorted(self.translators))
        if to is None and len(self.translators) == 1:
            return next(iter(self.translators))
        if to is None:
            raise UserError(f"the model makes {makes}; choose one with --to")
        if to not in self.translators:
            raise UserError(f"the model does not make {to!r} but {makes}; choose with --to")
        return to


def load_model(uri: str | Path, device: str = "auto") -> TranslationModel:
    """Load a model for translation.

    Args:
        uri: A run folder (its best checkpoint, else its latest), a checkpoint file, or MLflow's `runs:/…` or
            `models:/name@alias`.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        UserError: nothing is there, it is no checkpoint or of another version, or the device is not there.
    """
    chosen = choose_device(device)
    if str(uri).startswith(MLFLOW_SCHEMES):
        return _from_mlflow(str(uri), chosen)
    path = _checkpoint_path(Path(uri))
    content = _read(path)
    try:
        return _from_checkpoint(content, chosen)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: the checkpoint is damaged or of another version ({reason}); train again") from error


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserError: this machine does not have the device.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if not there.get(name, False):
        usable = ", ".join(kind for kind, present in there.items() if present)
        raise UserError(f"device {name!r} is not available here; use auto or one of: {usable}")
    return torch.device(name)


def _checkpoint_path(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"{path}: no such model; give a run folder, a checkpoint, runs:/… or models:/name@alias")
    for name in CHECKPOINTS:
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path}: holds no {' or '.join(CHECKPOINTS)}; give the folder of a run that has trained")


def _read(path: Path) -> dict:
    """Read a checkpoint as plain data: tensors, numbers, text; nothing in it is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a checkpoint, or a damaged one; give best.pt or latest.pt of a run") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path}: not a checkpoint of this tool; give best.pt or latest.pt of a run")
    if content["format"] != FORMAT:
        raise UserError(
            f"{path}: checkpoint format {content['format']}, this release reads {FORMAT}; "
            "use the release that wrote it, or train again"
        )
    return content


def _from_checkpoint(content: dict, device: torch.device) -> TranslationModel:
    config = Config.model_validate(content["config"])
    translators = build_translators(config)
    for to, network in translators.items():
        network.load_state_dict(content["translators"][to])
        network.to(device).eval().requires_grad_(False)
    return TranslationModel(
        contrasts=config.contrasts,
        translators=translators,
        settings=chain_settings(config.preprocess),
        facts=content["facts"],
        stride=max(network.stride for network in translators.values()),
        device=device,
        precision=config.training.precision if device.type == "cuda" else "float32",
        origin=_origin(config),
    )


def _from_mlflow(uri: str, device: torch.device) -> TranslationModel:
    from pipeline.mlflow_models import load_translator

    module, about = load_translator(uri, device)
    try:
        return TranslationModel(
            contrasts=tuple(about["contrasts"]),
            translators={about["to"]: module},
            settings=about["settings"],
            facts=about["facts"],
            stride=about["stride"],
            device=device,
            origin=about["origin"],
        )
    except KeyError as error:
        raise UserError(f"{uri}: its metadata lacks {error}; use the release that logged it, or log it again") from error


def translator_metadata(config: Config, facts: Mapping[str, Mapping[str, object]], to: str, stride: int) -> dict:
    """Return what `load_model` wants to find with one direction's MLflow model, in JSON's types.

    Only what translation needs: no path, no subject.
    """
    return {
        "contrasts": list(config.contrasts),
        "to": to,
        "settings": chain_settings(config.preprocess),
        "facts": {to: {name: facts[to][name] for name in ("low", "high", "integer")}},
        "stride": stride,
        "origin": _origin(config),
    }


def chain_settings(preprocess: Preprocess) -> dict:
    """Return the arguments of `transforms.presets.slice_chain` that a configuration asks for."""
    spacing = preprocess.spacing_mm
    return {
        "axis": preprocess.axis,
        "spacing_mm": None if spacing is None else [spacing.in_plane, spacing.through_plane],
        "size": preprocess.size,
        "n4": preprocess.n4,
        "percentiles": list(preprocess.percentiles) if preprocess.scaling == "percentiles" else None,
    }


def _origin(config: Config) -> str:
    return f"{config.method.type} {config.name}"
