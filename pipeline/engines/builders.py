"""From a configuration to a method's networks, optimisers and engine, and to the translators of a checkpoint."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import cast

import torch
from torch import nn

from networks.blocks import normalise_spectrally
from networks.context_lookup import ACROSS_MM
from networks.cpu_kernels import accelerate
from networks.lookup_start import LookupStart
from networks.monai_networks import MonaiGenerator
from networks.multiscale import MultiScaleDiscriminator
from networks.munit import AutoEncoder
from networks.neighbours import NeighbourGenerator
from networks.patch_features import FeatureGenerator, PatchFeatureHead
from networks.patchgan import PatchGAN
from networks.residual_concat import ResidualConcatGenerator
from networks.resnet import ResNetGenerator
from networks.skip import SkipGenerator
from networks.unet import UNet
from networks.unit import LatentAutoEncoder, share_blocks
from pipeline.config import methods
from pipeline.config.schema import Config, Training
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, Engine, MethodOptions
from pipeline.engines.structure import StructureOptions
from pipeline.utils.distributed import SINGLE_PROCESS, World

CPU = torch.device("cpu")


def build_engine(config: Config, device: torch.device, world: World = SINGLE_PROCESS) -> Engine:
    """Return the configured method with fresh networks on `device`, for one of the processes that train together."""
    method, training = _method_module(config), config.training
    generators = build_generators(config, device)
    discriminators = build_discriminators(config, device)
    rates = {
        GENERATORS: training.learning_rate,
        DISCRIMINATORS: training.discriminator_learning_rate or training.learning_rate,
    }
    return method.ENGINE(
        options=_options(config, method.OPTIONS),
        generators=generators,
        discriminators=discriminators,
        optimisers={player: partial(_optimiser, rate, training, device) for player, rate in rates.items()},
        device=device,
        precision=training.precision,
        world=world,
    )


def build_translators(config: Config) -> dict[str, nn.Module]:
    """Return, by target contrast, fresh modules for a checkpoint's translator weights, in `eval` mode on the CPU.

    They share no weights, unlike UNIT's in training, for a checkpoint may hold those of different steps.
    """
    translators = dict(_method_module(config).ENGINE.translators_of(build_generators(config, CPU)))
    translators["b"] = copy.deepcopy(translators["b"])
    return {contrast: translators[side].eval() for side, contrast in zip("ab", config.contrasts, strict=True)}


def learns_from_pairs(config: Config) -> bool:
    """Return whether the configured method learns from both contrasts of the same slices."""
    return _method_module(config).ENGINE.paired


def _options(config: Config, kind: type[MethodOptions]) -> MethodOptions:
    """Return the options of a method, which have the names of its keys; those that it has no key for are the usual."""
    values = {
        field.name: getattr(config.method, field.name) for field in fields(kind) if hasattr(config.method, field.name)
    }
    structure = values.pop("structure", None)
    if structure is not None and structure.type != "none":
        values["structure"] = StructureOptions(**structure.model_dump())
    return kind(**values | {"seed": config.seed})


def _method_module(config: Config) -> ModuleType:
    """Return the module of the configured method, whose `ENGINE` and `OPTIONS` are the method's classes."""
    return import_module(f"pipeline.engines.{config.method.type}")


def build_generators(config: Config, device: torch.device) -> dict[str, nn.Module]:
    """Return the freshly initialised networks of the first player, by the names they have in the method's engine."""
    method, settings = config.method, config.generator
    if isinstance(settings, methods.MunitGenerator | methods.UnitGenerator):
        autoencoders = {name: build_generator(config, device) for name in ("A", "B")}
        if isinstance(settings, methods.UnitGenerator):
            first, second = (cast(LatentAutoEncoder, network) for network in autoencoders.values())
            share_blocks(first, second, settings.shared_blocks)
        return autoencoders
    generators = {name: build_generator(config, device) for name in ("G", "F")}
    if isinstance(method, methods.Cut):
        generators |= {
            f"H_{name}": PatchFeatureHead(cast(FeatureGenerator, generator).feature_channels, method.head_width)
            for name, generator in generators.items()
        }
    return generators


def build_discriminators(config: Config, device: torch.device) -> dict[str, nn.Module]:
    """Return the freshly initialised networks of the second player, by name; none for plain regression."""
    if not isinstance(config.method, methods.Pix2Pix):
        return {name: build_discriminator(config, device) for name in ("D_A", "D_B")}
    if not config.method.adversarial_weight:
        return {}
    return {name: build_discriminator(config, device, channels=2) for name in ("D_A", "D_B")}  # of pairs


def build_generator(config: Config, device: torch.device = CPU) -> nn.Module:
    """Return a freshly initialised generator for a device; for `munit` and `unit`, one contrast's auto-encoder."""
    network, neighbours = _plain_generator(config), config.preprocess.neighbours
    lookup_mm = ACROSS_MM if config.lookup_in_volume else ()
    if config.starts_from_lookup:
        network = LookupStart(network, lookup_mm, with_box=config.starts_from_box)
    if device.type == "cpu":
        accelerate(network)
    return NeighbourGenerator(network, neighbours, lookup_mm) if neighbours else network


def _plain_generator(config: Config) -> nn.Module:
    settings, adjacent = config.generator, config.preprocess.neighbours
    arguments = settings.model_dump(exclude={"type", "start", "shared_blocks"})  # named as those of the networks
    if adjacent:
        arguments["in_channels"] = 2 * adjacent + 1
    if isinstance(settings, methods.UNetGenerator):
        return UNet(**arguments | {"depth": settings.depth or int(math.log2(config.preprocess.size))})
    if isinstance(settings, methods.MunitGenerator):
        return AutoEncoder(style_dim=arguments.pop("style_size"), **arguments)
    networks: dict[str, Callable[..., nn.Module]] = {
        "monai": MonaiGenerator,
        "resnet": ResNetGenerator,
        "residual_concat": ResidualConcatGenerator,
        "skip": SkipGenerator,
        "unit": LatentAutoEncoder,
    }
    return networks[settings.type](**arguments)


def build_discriminator(config: Config, device: torch.device = CPU, channels: int = 1) -> nn.Module:
    """Return a freshly initialised discriminator, for a device, of images with `channels` channels."""
    settings = config.discriminator
    arguments = settings.model_dump(exclude={"type", "spectral_norm"}) | {"in_channels": channels}
    network: nn.Module = {"patchgan": PatchGAN, "multiscale": MultiScaleDiscriminator}[settings.type](**arguments)
    if device.type == "cpu":
        accelerate(network)
    return normalise_spectrally(network) if settings.spectral_norm else network


def _optimiser(
    rate: float, training: Training, device: torch.device, weights: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return one optimiser for all weights of a player."""
    if training.optimiser == "rmsprop":
        return torch.optim.RMSprop(weights, lr=rate, alpha=0.9, weight_decay=training.weight_decay)
    return torch.optim.Adam(
        weights,
        lr=rate,
        betas=(training.beta1, 0.999),
        weight_decay=training.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
