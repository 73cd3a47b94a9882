"""A trained model as translation needs it: networks, preprocessing and the contrasts' intensities, from any address."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from pipeline.data.case import other_contrast
from pipeline.data.statistics import ContrastStatistics
from pipeline.inference.model_address import BOX_FILE, MLFLOW_SCHEMES, checkpoint_at, run_that_evaluates
from pipeline.inference.runtimes import RuntimeNetwork, device_for, is_exported, open_exported, short_reason
from pipeline.inference.slice_translator import Forward, forward_eagerly, neighbours_of
from pipeline.model_builder import build_saved_model, saved_names
from pipeline.runs.checkpoint import load_checkpoint
from pipeline.utils.errors import UserError, first_line
from pipeline.utils.hardware import choose_device, set_tf32
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings

ENOUGH_WORK = 5e9  # floating-point operations of a slice: 12e9 of the U-Net at 256, 0.2e9 of the demo's at 128


@dataclass(frozen=True)
class ModelInfo:
    """What identifies the model that made a volume: in summaries and in the sidecars of a BIDS derivative."""

    origin: str  # method and name of the run
    to: str  # the target contrast
    identity: str  # twelve digits of the SHA-256 of the weights
    config_hash: str  # twelve digits of the SHA-256 of the run's configuration; "" where that was not kept


@dataclass(frozen=True)
class TranslationModel:
    """A trained model that translates volumes.

    Attributes:
        contrasts: The two contrasts' names.
        translators: By target contrast, the network (N, C, H, W) -> (N, 1, H, W) in [-1, 1], in evaluation mode on
            `device`; both directions or one. C is 1, or more where it has `neighbours`.
        settings: How volumes became slices in training.
        statistics: By contrast, statistics of its training cohort.
        stride: The networks take heights and widths that are multiples of this.
        device: The device that holds the networks.
        precision: "float32", or "bf16" or "fp16" for autocast.
        origin: Method and name of the run, for the headers of translated volumes.
        config_hash: Twelve digits of the SHA-256 of its configuration; "" where that was not kept.
        calibration: The calibrated uncertainty that an MLflow model carries; None for others.
        saved_names: By target contrast, the names under which an earlier release saved weights that are called
            otherwise now, None for what it did not have; the identity is that of the saved weights.
        run: Function that runs the networks: eagerly, or compiled (`pipeline.inference.compile`).
        folder: The folder of the run that trained and evaluated it, for model cards; None where it is not known.
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
    calibration: Mapping[str, Any] | None = None
    saved_names: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    run: Forward = forward_eagerly
    folder: Path | None = None

    def info(self, to: str) -> ModelInfo:
        """Return what identifies the model that makes `to`, for records."""
        return ModelInfo(self.origin, to, self.identity(to), self.config_hash)

    def metadata(self, to: str) -> dict[str, Any]:
        """Return in JSON's types what the MLflow model of one direction keeps beside its network, but a calibration.

        That is all that translation needs: the target's intensities and both contrasts' fingerprints, but no path and
        no subject.
        """
        statistics: dict[str, dict[str, Any]] = {
            contrast: {"likeness": cohort.fingerprint.to_json()}
            for contrast, cohort in self.statistics.items()
            if cohort.fingerprint is not None
        }
        target = self.statistics[to]
        statistics[to] = statistics.get(to, {}) | {name: getattr(target, name) for name in ("low", "high", "integer")}
        neighbours = neighbours_of(self.translators[to])
        return {
            "contrasts": list(self.contrasts),
            "to": to,
            "settings": self.settings.to_json(),
            "facts": statistics,
            "stride": self.stride,
            "origin": self.origin,
            "config_hash": self.config_hash,
            **({"neighbours": neighbours.adjacent} if neighbours.adjacent else {}),
            **({"neighbour_mm": list(neighbours.distances_mm)} if neighbours.distances_mm else {}),
        }

    def identity(self, to: str) -> str:
        """Return twelve digits of the SHA-256 of the weights that make `to`: equal for equal weights, on any device."""
        network = self.translators[to]
        if isinstance(network, RuntimeNetwork):
            return network.weights_identity
        digest, names = hashlib.sha256(), self.saved_names.get(to, {})
        weights = {names.get(name, name): tensor for name, tensor in network.state_dict().items()}
        for name, tensor in sorted((name, tensor) for name, tensor in weights.items() if name is not None):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:12]

    def in_precision(self, precision: str) -> "TranslationModel":
        """Return the model with another `precision`, "float32", "bf16" or "fp16"; with its own for "model".

        Raises:
            UserError: the runtime of an exported network does not compute in it.
        """
        for network in self.translators.values():
            if isinstance(network, RuntimeNetwork):
                network.require_precision(self.precision if precision == "model" else precision)
        return self if precision == "model" else replace(self, precision=precision)

    def source(self, to: str) -> str:
        """Return the contrast that `to` is made of."""
        return other_contrast(self.contrasts, to)

    def target(self, to: str | None) -> str:
        """Return the contrast to make: `to`, or the only one where that is None.

        Raises:
            UserError: the model does not make `to`, or makes several and none was chosen.
        """
        targets = " and ".join(sorted(self.translators))
        if to is None and len(self.translators) == 1:
            return next(iter(self.translators))
        if to is None:
            raise UserError(f"the model makes {targets}; name the one to make (--to)")
        if to not in self.translators:
            raise UserError(f"the model does not make {to!r} but {targets}")
        return to


def load_model(address: str | Path, device: str = "auto") -> TranslationModel:
    """Load a model for translation.

    Args:
        address: A run's folder, a checkpoint file, "box" (the model that comes with the package), MLflow's
            `runs:/RUN_ID/MODEL` or `models:/NAME@ALIAS` (see `pipeline.inference.model_address.checkpoint_at`), or an
            exported `.onnx` or `.xml`, for the CPU alone.
        device: "auto", "cpu", "cuda" or "mps". On a GPU, torch's use of TF32 is set for the whole process as the run
            had it.

    Raises:
        UserError: there is no such model, it is no checkpoint or of another version, or the device is not available.
    """
    path = Path(address)
    if is_exported(path):
        network, record = open_exported(path)
        return _from_metadata(network, record, torch.device(device_for(network.backend, device)), str(path))
    torch_device = choose_device(device)
    if str(address).startswith(MLFLOW_SCHEMES):
        return _from_mlflow(str(address), torch_device)
    path = checkpoint_at(path)
    try:
        model = _from_checkpoint(load_checkpoint(path), torch_device)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        problem = f"the checkpoint is damaged or of another version ({' '.join(str(error).split())[:200]})"
        raise UserError(f"{path}: {problem}; use the release that trained it, or train again") from error
    try:
        for translator in model.translators.values():
            translator.to(torch_device)
    except RuntimeError as error:  # out of memory, or a driver that fails
        problem = f"cannot hold the model ({short_reason(error)})"
        raise UserError(f"{torch_device}: {problem}; use --device cpu, or free the device") from error
    return replace(model, folder=run_that_evaluates(path))


def box(device: str = "auto") -> TranslationModel:
    """Return the model that comes with the package, T1 to T2 and back; trained on synthetic heads alone.

    >>> image = translate("scan_t1.nii.gz", box(), to="T2")

    Raises:
        UserError: the device is not available.
    """
    return load_model(BOX_FILE, device)


def _from_checkpoint(content: Mapping[str, Any], device: torch.device) -> TranslationModel:
    """Return the model of a checkpoint, for a device; its networks are still on the CPU."""
    saved = build_saved_model(content["config"], int(content.get("chain_version", 1)))
    set_tf32(device, saved.tf32)  # as it was validated
    for to, network in saved.translators.items():
        network.load_state_dict(content["translators"][to])
        network.eval().requires_grad_(False)
        if device.type == "cpu" and is_large(network, saved.settings.size, stride_of(network)):
            cast(Any, network).to(memory_format=torch.channels_last)  # see `benchmarks.inference`
    return _usable(
        content["facts"],
        contrasts=saved.contrasts,
        translators=saved.translators,
        settings=saved.settings,
        stride=max(map(stride_of, saved.translators.values())),
        device=device,
        precision=precision_on(device, saved.precision),
        origin=saved.origin,
        config_hash=saved.config_hash,
        saved_names={to: saved_names(network, content["translators"][to]) for to, network in saved.translators.items()},
    )


def _from_mlflow(address: str, device: torch.device) -> TranslationModel:
    from pipeline.tracking.mlflow_models import load_translator

    module, content = load_translator(address, device)
    for name in ("neighbours", "neighbour_mm"):  # which an exported graph does not know of itself
        if name in content:
            setattr(module, name, content[name])
    return _from_metadata(module, content, device, address)


def _from_metadata(
    network: nn.Module, content: Mapping[str, Any], device: torch.device, address: str
) -> TranslationModel:
    """Return a model of what `TranslationModel.metadata` gave; raises UserError where that cannot be it."""
    try:
        first, second = content["contrasts"]
        return _usable(
            content["facts"],
            contrasts=(first, second),
            translators={content["to"]: network},
            settings=PreprocessSettings.from_json(content["settings"]),
            stride=content["stride"],
            device=device,
            origin=content["origin"],
            config_hash=content.get("config_hash", ""),
            calibration=content.get("uncertainty"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"its metadata is damaged or of another version ({first_line(error)})"
        raise UserError(f"{address}: {reason}; make it again from the run, or use the release that made it") from error


def _usable(facts: Mapping[str, Mapping[str, Any]], **values: Any) -> TranslationModel:
    """Return the model of saved statistics, by contrast, and other attributes.

    Raises ValueError, TypeError or AttributeError where it could not translate whatever the volume.
    """
    statistics = {contrast: ContrastStatistics.from_json(entry) for contrast, entry in facts.items()}
    model = TranslationModel(statistics=statistics, **values)
    for to in model.translators:
        if model.contrasts[0] == model.contrasts[1] or to not in model.contrasts:
            raise ValueError(f"it makes {to} of the contrasts {' and '.join(map(str, model.contrasts))}")
        if to not in statistics:
            raise ValueError(f"the intensities of {to} are missing")
        low, high = statistics[to].low, statistics[to].high
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"the intensities of {to} go from {low} to {high}")
    if type(model.stride) is not int or model.stride < 1:
        raise ValueError(f"its stride is {model.stride!r}")
    if (version := model.settings.version) not in range(1, CHAIN_VERSION + 1):
        raise ValueError(f"its preprocessing is of version {version}, and 1 to {CHAIN_VERSION} are known here")
    return model


def stride_of(network: nn.Module) -> int:
    """Return the number whose multiples a network takes as heights and widths."""
    return cast(int, network.stride)


def is_large(network: nn.Module, size: int, stride: int) -> bool:
    """Whether a slice of `size` pixels a side takes a network `ENOUGH_WORK` floating-point operations or more.

    A multiplication and an addition are two operations. Large networks gain by the channels-last memory layout and by
    being compiled, smaller ones lose.
    """
    from torch.utils.flop_counter import FlopCounterMode

    # Hardly a network does more than each weight's work at every pixel: small ones need no count.
    side = -(-size // stride) * stride
    if 2 * side**2 * sum(weight.numel() for weight in network.parameters()) < ENOUGH_WORK:
        return False
    shapes = {name: value.to("meta") for name, value in network.state_dict().items()}  # nothing is computed
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        image = torch.zeros(1, neighbours_of(network).channels, side, side, device="meta")
        torch.func.functional_call(network, shapes, image)
    return counter.get_total_flops() >= ENOUGH_WORK


def precision_on(device: torch.device, trained: str) -> str:
    """Return the precision in which a run's networks are validated, evaluated and applied on a device.

    On a GPU it is the training precision, so that translation computes as the validation that chose the checkpoint. On
    the CPU it is float32, for few CPUs are faster in bf16. The last layer is float32 in any case (`networks.output`).
    """
    return trained if device.type == "cuda" else "float32"
