"""A trained model as translation needs it: networks, preprocessing and the contrasts' intensities, from any address."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.schema import Config
from pipeline.data.statistics import ContrastStatistics
from pipeline.engines.builders import build_translators
from pipeline.inference.model_address import MLFLOW_SCHEMES, checkpoint_at
from pipeline.runs.checkpoint import load_checkpoint
from pipeline.runs.prepare import chain_settings, chain_version
from pipeline.utils.errors import UserError
from pipeline.utils.hardware import choose_device, set_tf32
from transforms.slice_chain import PreprocessSettings

ENOUGH_WORK = 5e9  # floating-point operations of a slice: 12e9 of the U-Net at 256, 0.2e9 of the demo's at 128

Run = Callable[[nn.Module, Tensor], Tensor]  # a network and a batch -> its output


def run_eagerly(network: nn.Module, batch: Tensor) -> Tensor:
    """Return a network's output for a batch, without compiling."""
    return network(batch)


@dataclass(frozen=True)
class TranslationModel:
    """A trained model that translates volumes.

    Attributes:
        contrasts: The two contrasts' names.
        translators: By target contrast, the network (N, 1, H, W) -> (N, 1, H, W) in [-1, 1], in evaluation mode on
            `device`; both directions or one.
        settings: How volumes became slices in training.
        statistics: By contrast, statistics of its training cohort.
        stride: The networks take heights and widths that are multiples of this.
        device: The device that holds the networks.
        precision: "float32", or "bf16" or "fp16" for autocast.
        origin: Method and name of the run, for the headers of translated volumes.
        config_hash: Twelve digits of the SHA-256 of its configuration; "" where that was not kept.
        calibration: The calibrated uncertainty that an MLflow model carries, from flips and shifts alone; empty where
            there is none.
        run: Function that runs the networks: eagerly, or compiled (`pipeline.inference.compile`).
    """

    contrasts: tuple[str, str]
    translators: Mapping[str, nn.Module]
    settings: PreprocessSettings
    statistics: Mapping[str, ContrastStatistics]
    stride: int
    device: torch.device
    precision: str = "float32"
    origin: str = "contrast translation"
    config_hash: str = ""
    calibration: Mapping[str, object] = field(default_factory=dict)
    run: Run = run_eagerly

    def info(self, to: str) -> dict[str, str]:
        """Return what identifies the model that makes `to`, for records: `origin`, `to`, `identity`, `config_hash`."""
        return {"origin": self.origin, "to": to, "identity": self.identity(to), "config_hash": self.config_hash}

    def identity(self, to: str) -> str:
        """Return twelve digits of the SHA-256 of the weights that make `to`: equal for equal weights, on any device."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.translators[to].state_dict().items()):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:12]

    def in_precision(self, precision: str) -> "TranslationModel":
        """Return the model with another `precision`, "float32", "bf16" or "fp16"; with its own for "model"."""
        return self if precision == "model" else replace(self, precision=precision)

    def source(self, to: str) -> str:
        """Return the contrast that `to` is made of."""
        return next(contrast for contrast in self.contrasts if contrast != to)

    def target(self, to: str | None) -> str:
        """Return the contrast to make: `to`, or the only one where that is None.

        Raises:
            UserError: the model does not make `to`, or makes several and none was chosen.
        """
        makes = " and ".join(sorted(self.translators))
        if to is None and len(self.translators) == 1:
            return next(iter(self.translators))
        if to is None:
            raise UserError(f"the model makes {makes}; name the one to make (--to)")
        if to not in self.translators:
            raise UserError(f"the model does not make {to!r} but {makes}")
        return to


def load_model(uri: str | Path, device: str = "auto") -> TranslationModel:
    """Load a model for translation.

    Args:
        uri: A run's folder, a checkpoint file, or MLflow's `runs:/RUN_ID/MODEL` or `models:/NAME@ALIAS`. Of a folder,
            the checkpoint that its evaluation uses: the best one, or the latest where the configuration says so.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        UserError: there is no such model, it is no checkpoint or of another version, or the device is not available.
    """
    chosen = choose_device(device)
    if str(uri).startswith(MLFLOW_SCHEMES):
        return _from_mlflow(str(uri), chosen)
    path = checkpoint_at(Path(uri))
    content = load_checkpoint(path)
    try:
        return _from_checkpoint(content, chosen)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: the checkpoint is damaged or of another version ({reason}); train again") from error


def is_large(network: nn.Module, size: int, stride: int) -> bool:
    """Whether a slice of `size` pixels a side takes a network `ENOUGH_WORK` floating-point operations or more.

    A multiplication and an addition are two operations. Large networks gain by the channels-last memory layout and by
    being compiled, smaller ones lose.
    """
    from torch.utils.flop_counter import FlopCounterMode

    side = -(-size // stride) * stride
    shapes = {name: value.to("meta") for name, value in network.state_dict().items()}  # nothing is computed
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.func.functional_call(network, shapes, torch.zeros(1, 1, side, side, device="meta"))
    return counter.get_total_flops() >= ENOUGH_WORK


def _from_checkpoint(content: dict, device: torch.device) -> TranslationModel:
    config = Config.model_validate(content["config"])
    set_tf32(device, config.training.tf32)  # as it was validated
    translators = build_translators(config)
    settings = chain_settings(config.preprocess.model_dump(mode="json"), chain_version(content))
    for to, network in translators.items():
        network.load_state_dict(content["translators"][to])
        network.to(device).eval().requires_grad_(False)
        if device.type == "cpu" and is_large(network, settings.size, network.stride):
            network.to(memory_format=torch.channels_last)  # see `benchmarks.inference`
    return TranslationModel(
        contrasts=config.contrasts,
        translators=translators,
        settings=settings,
        statistics=_statistics(content["facts"]),
        stride=max(network.stride for network in translators.values()),
        device=device,
        precision=precision_of(config, device),
        origin=_origin(config),
        config_hash=_config_hash(config),
    )


def _from_mlflow(uri: str, device: torch.device) -> TranslationModel:
    from pipeline.tracking.mlflow_models import load_translator

    module, metadata = load_translator(uri, device)
    try:
        return TranslationModel(
            contrasts=tuple(metadata["contrasts"]),
            translators={metadata["to"]: module},
            settings=PreprocessSettings.from_json(metadata["settings"]),
            statistics=_statistics(metadata["facts"]),
            stride=metadata["stride"],
            device=device,
            origin=metadata["origin"],
            config_hash=metadata.get("config_hash", ""),
            calibration=metadata.get("uncertainty", {}),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{uri}: its metadata is incomplete ({error}); use the release that logged it") from error


def _statistics(content: Mapping[str, Mapping[str, Any]]) -> dict[str, ContrastStatistics]:
    return {contrast: ContrastStatistics.from_json(entry) for contrast, entry in content.items()}


def translator_metadata(
    config: Config,
    statistics: Mapping[str, ContrastStatistics],
    to: str,
    stride: int,
    settings: PreprocessSettings | None = None,
) -> dict:
    """Return the metadata that `load_model` reads from one direction's MLflow model, in JSON's types.

    It holds what translation needs, and no path and no subject.

    Args:
        config: The run's configuration.
        statistics: The training cohort's statistics by contrast.
        to: The contrast that the direction makes.
        stride: The network takes heights and widths that are multiples of this.
        settings: The model's settings of the slice chain; None takes those of a new run.
    """
    model_statistics: dict[str, dict[str, Any]] = {
        contrast: {"likeness": cohort.fingerprint.to_json()}
        for contrast, cohort in statistics.items()
        if cohort.fingerprint is not None
    }
    target = {name: getattr(statistics[to], name) for name in ("low", "high", "integer")}
    model_statistics[to] = model_statistics.get(to, {}) | target
    return {
        "contrasts": list(config.contrasts),
        "to": to,
        "settings": (settings or chain_settings(config.preprocess.model_dump(mode="json"))).to_json(),
        "facts": model_statistics,
        "stride": stride,
        "origin": _origin(config),
        "config_hash": _config_hash(config),
    }


def precision_of(config: Config, device: torch.device) -> str:
    """Return the precision in which a run's networks are validated, evaluated and applied on a device.

    On a GPU it is the training precision, so that translation computes as the validation that chose the checkpoint. On
    the CPU it is float32, for few CPUs are faster in bf16. The last layer is float32 in any case (`networks.output`). A
    network that was logged to MLflow computes in float32 and differs by bf16's rounding.
    """
    return config.training.precision if device.type == "cuda" else "float32"


def _origin(config: Config) -> str:
    return f"{config.method.type} {config.name}"


def _config_hash(config: Config) -> str:
    content = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
