"""A loaded model whose network another runtime computes: exported in memory, not to a file."""

import logging
from dataclasses import replace

import torch

from networks.unet import UNet
from pipeline.exporting.agreement import require_agreement
from pipeline.exporting.onnx import onnx_model
from pipeline.exporting.record import model_record
from pipeline.inference.model import TranslationModel, is_large
from pipeline.inference.runtimes import (
    OPENERS,
    RUNTIMES,
    TORCH,
    RuntimeNetwork,
    backend_of,
    required_package,
    short_reason,
)
from pipeline.utils.errors import UserError

logger = logging.getLogger(__name__)

LEAST_VOLUMES = 25  # a thread: a U-Net-256's export costs as much as OpenVINO gains with 21 (benchmarks/README.md)


def in_backend(model: TranslationModel, to: str, backend: str) -> TranslationModel:
    """Return a model that makes `to` alone, whose network a backend computes: "torch" or a key of `RUNTIMES`.

    Raises:
        UserError: a package is missing, the model comes from a file for another runtime, or the runtime computes
            something else than the network.
    """
    current_backend = backend_of(model.translators[model.target(to)])
    if backend == current_backend:
        return model
    if current_backend != TORCH:
        problem = f"{model.origin} comes from a file for {RUNTIMES[current_backend].name}"
        raise UserError(f"--backend {backend}: {problem}; leave --backend out, or give the run's folder")
    required_package(backend, backend)
    exported = OPENERS[backend](onnx_model(model, to))
    require_agreement(model, to, lambda inputs: exported.run(inputs, "float32"), RUNTIMES[backend].name)
    return replace(model, translators={to: RuntimeNetwork(backend, exported.run, model_record(model, to))})


def automatic(model: TranslationModel, to: str, volumes: int) -> TranslationModel:
    """Return a model that makes `to`, computed by what translates so many volumes soonest (`quickest`).

    Where that cannot compute the network, or computes something else, a warning says so, and torch stays.
    """
    backend = quickest(model, to, volumes)
    try:
        return in_backend(model, to, backend)
    except Exception as error:  # exporters and runtimes have classes of their own
        name = RUNTIMES[backend].name
        logger.warning(f"{name} cannot compute the network ({short_reason(error)}); torch does, more slowly")
        return model


def quickest(model: TranslationModel, to: str, volumes: int) -> str:
    """Return what translates so many volumes soonest, its export counted: "torch" or "openvino", where it is installed.

    That is OpenVINO for a large U-Net in float32 on a CPU and `LEAST_VOLUMES` for each thread, since threads divide a
    volume's time but not an export's. Torch computes whatever was not measured to gain, ONNX Runtime gained nowhere.
    """
    network = model.translators[to]
    if backend_of(network) != TORCH or model.device.type != "cpu" or model.precision != "float32":
        return backend_of(network)
    is_unet = any(isinstance(module, UNet) for module in network.modules())
    if volumes < LEAST_VOLUMES * torch.get_num_threads() or not is_unet or not RUNTIMES["openvino"].is_installed:
        return TORCH
    return "openvino" if is_large(network, model.settings.size, model.stride) else TORCH
