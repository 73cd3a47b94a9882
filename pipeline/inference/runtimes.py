"""Networks that ONNX Runtime or OpenVINO computes instead of torch, on the CPU, and the exported files that hold them.

What an exported file knows of its model besides the network is a record in JSON (`pipeline.exporting.record`).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.utils.console import one_line
from pipeline.utils.errors import UserError, first_cause, missing_package
from pipeline.utils.files import is_file

TORCH = "torch"  # the backend of models that no other runtime computes
IMAGE, STYLE, TRANSLATION = "image", "style", "translation"  # inputs of an exported graph, and its output
RECORD = "contrast_translation"  # the record's key among a file's metadata
SECTION = "exported_model"  # of the metadata of OpenVINO's files, where some keys are its own
RECORD_FORMAT = 1
MOST_SIZES = 4  # of images that OpenVINO keeps networks for
PROGRAM_SUFFIX = ".pt2"
OPENVINO_PRECISIONS = {"float32": "f32", "bf16": "bf16"}  # stated, for OpenVINO rounds to bf16 where a CPU has it
EXPORT_PACKAGES = "onnx", "onnxscript"
MAX_REASON_LENGTH = 200  # characters of a runtime's error

Inputs = Mapping[str, np.ndarray]
Run = Callable[[Inputs, str], np.ndarray]  # inputs by name, and the precision -> the output


@dataclass(frozen=True)
class Runtime:
    """A runtime: its name for messages, the extra of this project that installs it, its files and its precisions.

    `packages` are what computing a loaded model with it takes, its export included.
    """

    name: str
    extra: str
    suffix: str
    precisions: tuple[str, ...]
    packages: tuple[str, ...]

    @property
    def is_installed(self) -> bool:
        """Whether its packages are there; none is imported."""
        return all(find_spec(package) is not None for package in self.packages)


RUNTIMES = {
    "onnxruntime": Runtime("ONNX Runtime", "onnx", ".onnx", ("float32",), ("onnxruntime", *EXPORT_PACKAGES)),
    "openvino": Runtime("OpenVINO", "openvino", ".xml", tuple(OPENVINO_PRECISIONS), ("openvino", *EXPORT_PACKAGES)),
}


class Exported(NamedTuple):
    """What an exported file holds."""

    run: Run
    record: str | None  # JSON; None in a file of another tool


class RuntimeNetwork(nn.Module):
    """A network (N, C, H, W) -> (N, 1, H, W) in [-1, 1] that another runtime computes, on the CPU, without gradients.

    Under autocast to bf16 OpenVINO computes in bf16, as a torch network does. `backend` is a key of `RUNTIMES`;
    `record`, that of `pipeline.exporting.record.model_record`, has the exported network's stride, neighbours, identity
    (`TranslationModel.identity`) and, where it takes one (MUNIT), style (style_dim,).
    """

    def __init__(self, backend: str, run: Run, record: Mapping[str, Any]):
        super().__init__()
        self.backend, self.runtime, self._run = backend, RUNTIMES[backend], run
        self.stride, self.neighbours = int(record["stride"]), int(record.get("neighbours", 0))
        self.neighbour_mm = tuple(map(float, record.get("neighbour_mm", ())))
        self.weights_identity = str(record["identity"])
        self.style = np.array([record["style"]], np.float32) if "style" in record else None

    def forward(self, image: Tensor) -> Tensor:
        """Translate (N, C, H, W) in [-1, 1] to (N, 1, H, W) in that range.

        Raises:
            MemoryError: the memory ran out; RuntimeError: the runtime failed.
        """
        inputs = {IMAGE: np.ascontiguousarray(image.numpy(), np.float32)}
        if self.style is not None:
            inputs[STYLE] = self.style
        is_half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        try:
            return torch.from_numpy(self._run(inputs, "bf16" if is_half else "float32"))
        except Exception as error:  # each runtime has classes of its own
            reason = short_reason(error)
            kind = MemoryError if "alloc" in reason.lower() else RuntimeError
            raise kind(f"{self.runtime.name}: {reason}") from error

    def require_precision(self, precision: str) -> None:
        """Raise UserError unless the runtime computes in "float32", "bf16" or "fp16"."""
        if precision not in self.runtime.precisions:
            known = " and ".join(self.runtime.precisions)
            raise UserError(f"--precision {precision}: {self.runtime.name} computes in {known}; choose that")


def backend_of(network: nn.Module) -> str:
    """Return what computes a network: "torch" or a key of `RUNTIMES`."""
    return network.backend if isinstance(network, RuntimeNetwork) else TORCH


def computed_by(network: nn.Module) -> str:
    """Return what computes a network, with its version, as "torch 2.13.0"."""
    if not isinstance(network, RuntimeNetwork):
        return f"{TORCH} {torch.__version__}"
    return f"{network.runtime.name} {import_module(network.backend).__version__.partition('-')[0]}"


def device_for(backend: str | None, device: str) -> str:
    """Return the device to load a model on: the CPU where a runtime other than torch computes its network.

    Raises:
        UserError: another device was chosen for such a runtime.
    """
    if backend is None or backend not in RUNTIMES:
        return device
    if device not in ("auto", "cpu"):
        raise UserError(f"--device {device}: {RUNTIMES[backend].name} computes on the CPU alone here; choose cpu")
    return "cpu"


def is_exported(path: Path) -> bool:
    """Whether a path is a file that `pipeline.export` makes, by its suffix."""
    return path.suffix.lower() in (*(runtime.suffix for runtime in RUNTIMES.values()), PROGRAM_SUFFIX) and is_file(path)


def open_exported(path: Path) -> tuple[RuntimeNetwork, dict[str, Any]]:
    """Return the network of an exported file, and the record of its model.

    Raises:
        UserError: the runtime is not installed, or the file cannot be read or is not of this tool.
    """
    if path.suffix.lower() == PROGRAM_SUFFIX:
        raise UserError(f"{path}: a torch program is for other programs; give the run's folder, an .onnx or an .xml")
    backend = next(name for name, runtime in RUNTIMES.items() if runtime.suffix == path.suffix.lower())
    opened = open_model(path, backend)
    try:
        record = json.loads(opened.record or "")
        known = record["format"] == RECORD_FORMAT
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: was not exported by this tool; give a file that pipeline.export made") from None
    if not known:
        raise UserError(f"{path}: exported by another release; use that one, or export the model again")
    try:
        return RuntimeNetwork(backend, opened.run, record), record
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its record is incomplete ({error}); export the model again") from error


def open_model(source: Path | bytes, backend: str) -> Exported:
    """Open the file of a backend, or the bytes of an ONNX model of ours; raises UserError as `open_exported`."""
    package = required_package(backend, backend)
    try:
        return (_open_onnx if backend == "onnxruntime" else _open_openvino)(package, source)
    except Exception as error:  # each runtime has classes of its own
        if isinstance(source, bytes):
            raise
        reason = f"{RUNTIMES[backend].name} cannot read it ({short_reason(error)})"
        raise UserError(f"{source}: {reason}; export the model again") from error


def _open_onnx(onnxruntime: Any, source: Path | bytes) -> Exported:
    content = source if isinstance(source, bytes) else source.read_bytes()  # no path: no other file is read
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    record = session.get_modelmeta().custom_metadata_map.get(RECORD)
    return Exported(lambda inputs, precision: session.run(None, dict(inputs))[0], record)


def _open_openvino(openvino: Any, source: Path | bytes) -> Exported:
    core, key = openvino.Core(), [SECTION, RECORD]
    model = core.read_model(source)
    record = model.get_rt_info(key).astype(str) if model.has_rt_info(key) else None
    return Exported(_FixedSizes(core, model), record)


class _FixedSizes:
    """Runs a model that OpenVINO compiles for one size of images at a time, smaller batches padded.

    Compiled for any batch, a network of small feature maps gave wrong images on one thread (OpenVINO 2026.4).
    """

    def __init__(self, core: Any, model: Any):
        self.core, self.model = core, model
        self.compiled: dict[tuple, tuple[int, Any]] = {}  # by precision, channels and size: the batch and the network

    def __call__(self, inputs: Inputs, precision: str) -> np.ndarray:
        """Return the output for inputs by name."""
        image = inputs[IMAGE]
        key = (precision, *image.shape[1:])
        if self.compiled.get(key, (0, None))[0] < len(image):
            if len(self.compiled) == MOST_SIZES:  # each has weights of its own
                self.compiled.pop(next(iter(self.compiled)))
            self.compiled[key] = len(image), self._compile(image.shape, precision)
        batch, network = self.compiled[key]
        padded = np.zeros((batch, *image.shape[1:]), np.float32)
        padded[: len(image)] = image
        return network({**inputs, IMAGE: padded})[0][: len(image)]

    def _compile(self, shape: tuple[int, ...], precision: str) -> Any:
        model = self.model.clone()
        model.reshape({IMAGE: list(shape)})
        threads = torch.get_num_threads()
        hints = {"INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision], "INFERENCE_NUM_THREADS": threads}
        return self.core.compile_model(model, "CPU", hints)


def required_package(name: str, backend: str) -> Any:
    """Return an optional package; raises UserError with the remedy where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise missing_package(RUNTIMES[backend].name, RUNTIMES[backend].extra, error) from error


def short_reason(error: BaseException) -> str:
    """Return a runtime's error as one short line."""
    return one_line(" ".join(first_cause(error).split()))[:MAX_REASON_LENGTH]
