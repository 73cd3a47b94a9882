"""Models and input of the inference benchmarks: a trained model or an untrained U-Net, and a volume of noise."""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imports that take seconds, which --help does not need
    import numpy as np
    from torch import nn

    from pipeline.inference.model import TranslationModel


def benchmark_model(
    uri: str | None, to: str | None, width: int, size: int, device: str, *, tuned: bool = True
) -> "tuple[TranslationModel, str]":
    """Return a model and its target contrast: a trained model, or an untrained U-Net down to one pixel."""
    import torch

    from networks.cpu_kernels import accelerate
    from networks.unet import UNet
    from pipeline.data.statistics import ContrastStatistics
    from pipeline.inference.model import TranslationModel, is_large, load_model
    from pipeline.utils.hardware import choose_device
    from transforms.slice_chain import PreprocessSettings

    if uri is not None:
        model = load_model(uri, device)
        if not tuned:
            model = replace(
                model, translators={name: _torch_layers(network) for name, network in model.translators.items()}
            )
        return model, model.target(to)
    torch.manual_seed(0)
    torch_device = choose_device(device)
    network = UNet(depth=size.bit_length() - 1, width=width).to(torch_device).eval().requires_grad_(False)
    if tuned and torch_device.type == "cpu":  # as `load_model` does
        accelerate(network)
        if is_large(network, size, network.stride):
            network.to(memory_format=torch.channels_last)
    settings = PreprocessSettings("axial", None, size, n4=False, percentiles=(0.5, 99.5))
    statistics = {"T2": ContrastStatistics(0.0, 1000.0, integer=True)}
    return TranslationModel(("T1", "T2"), {"T2": network}, settings, statistics, network.stride, torch_device), "T2"


def _torch_layers(network: "nn.Module") -> "nn.Module":
    """Return a network with torch's own layers and default memory layout."""
    import torch

    from networks.cpu_kernels import torch_layers

    return torch_layers(network).to(memory_format=torch.contiguous_format)


def ellipsoid_volume(size: int, slices: int) -> "np.ndarray":
    """Return an uneven ellipsoid in noisy air, (size, size, slices) int16."""
    import numpy as np

    random = np.random.default_rng(0)
    axes = np.ogrid[-1.1 : 1.1 : size * 1j, -1.1 : 1.1 : size * 1j, -1.1 : 1.1 : slices * 1j]
    inside = sum(axis**2 for axis in axes) < 1
    return (random.integers(0, 20, inside.shape) + inside * random.integers(400, 1000, inside.shape)).astype(np.int16)
