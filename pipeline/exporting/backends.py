"""A loaded model whose network another runtime computes, exported in memory, and which of them is the quickest."""

import logging
import timeit
from dataclasses import replace

import torch

from networks.lookup_start import start_of
from networks.unet import UNet
from pipeline.exporting.agreement import require_agreement
from pipeline.exporting.onnx import onnx_model
from pipeline.exporting.record import model_record
from pipeline.inference import runtimes
from pipeline.inference.model import TranslationModel, is_large
from pipeline.inference.runtimes import RUNTIMES, TORCH, RuntimeNetwork
from pipeline.inference.slice_translator import neighbours_of
from pipeline.utils.errors import UserError

logger = logging.getLogger(__name__)

LEAST_VOLUMES = 25  # a thread: with fewer, an export costs more than a runtime was ever measured to gain
TIMED_SLICES, ROUNDS = 4, 3  # in a batch, and how often each way translates it


def in_backend(model: TranslationModel, to: str, backend: str) -> TranslationModel:
    """Return a model that makes `to` alone, whose network a backend computes: "torch" or a key of `RUNTIMES`.

    Raises:
        UserError: a package is missing, the model comes from a file for another runtime, or the runtime computes
            something else than the network.
    """
    current_backend = runtimes.backend_of(model.translators[model.target(to)])
    if backend == current_backend:
        return model
    if current_backend != TORCH:
        problem = f"{model.origin} comes from a file for {RUNTIMES[current_backend].name}"
        raise UserError(f"--backend {backend}: {problem}; leave --backend out, or give the run's folder")
    runtimes.required_package(backend, backend)
    run = runtimes.open_model(onnx_model(model, to), backend).run
    require_agreement(model, to, run, RUNTIMES[backend].name)
    return replace(model, translators={to: RuntimeNetwork(backend, run, model_record(model, to))})


def automatic(model: TranslationModel, to: str, volumes: int) -> TranslationModel:
    """Return a model that makes `to`, computed by what translates so many volumes soonest.

    OpenVINO, where it may gain (`may_gain`), translates a batch beside torch, and the quicker of the two is taken.
    Where it cannot compute the network, or computes something else, a warning says so, and torch stays.
    """
    if not may_gain(model, to, volumes):
        return model
    try:
        other = in_backend(model, to, "openvino")
    except Exception as error:  # exporters and runtimes have classes of their own
        name = RUNTIMES["openvino"].name
        logger.warning(f"{name} cannot compute the network ({runtimes.short_reason(error)}); torch does")
        return model
    return min(model, other, key=lambda each: _seconds(each, to, neighbours_of(model.translators[to]).channels))


def may_gain(model: TranslationModel, to: str, volumes: int) -> bool:
    """Return whether OpenVINO is installed and may translate so many volumes sooner, its export counted.

    That is so for a large U-Net in float32 on a CPU and `LEAST_VOLUMES` for each thread, since threads divide a
    volume's time but not an export's. For all else torch was measured to be quicker, and than ONNX Runtime everywhere.
    """
    network = model.translators[to]
    if runtimes.backend_of(network) != TORCH or model.device.type != "cpu" or model.precision != "float32":
        return False
    if volumes < LEAST_VOLUMES * torch.get_num_threads() or not RUNTIMES["openvino"].is_installed:
        return False
    start = start_of(network)
    corrects = network if start is None else start.network  # what else a start has is small
    is_unet = any(isinstance(part, UNet) for part in corrects.modules())
    return is_unet and is_large(network, model.settings.size, model.stride)


def _seconds(model: TranslationModel, to: str, channels: int) -> float:
    """Return the shortest time that a model took for a batch of noise, after a first one."""
    side = -(-model.settings.size // model.stride) * model.stride
    batch, network = torch.rand(TIMED_SLICES, channels, side, side) * 2 - 1, model.translators[to]
    with torch.inference_mode():
        return min(timeit.repeat(lambda: network(batch), number=1, repeat=1 + ROUNDS)[1:])
