"""From a configuration to networks and engines: the one place where a name becomes a method."""

import math

import torch
from torch import nn

from networks.patchgan import PatchGAN
from networks.unet import UNet
from pipeline.config.schema import Config
from pipeline.engines.cyclegan import CycleGanEngine
from pipeline.engines.protocol import Engine


def build_generator(config: Config) -> nn.Module:
    """Return a freshly initialised generator."""
    settings = config.generator
    depth = settings.depth or int(math.log2(config.preprocess.size))
    return UNet(depth=depth, width=settings.width, dropout=settings.dropout)


def build_discriminator(config: Config) -> nn.Module:
    """Return a freshly initialised discriminator."""
    return PatchGAN(width=config.discriminator.width, layers=config.discriminator.layers)


def build_engine(config: Config, device: torch.device) -> Engine:
    """Return the configured method with fresh networks on `device`."""
    method, training = config.method, config.training
    return CycleGanEngine(
        lambda: build_generator(config),
        lambda: build_discriminator(config),
        device=device,
        adversarial=method.adversarial,
        cycle_weight=method.cycle_weight,
        identity_share=method.identity_share,
        discriminator_scale=method.discriminator_scale,
        pool_size=method.pool_size,
        ema_decay=method.ema_decay,
        learning_rate=training.learning_rate,
        discriminator_learning_rate=training.discriminator_learning_rate or training.learning_rate,
        beta1=training.beta1,
        precision=training.precision,
        seed=config.seed,
    )


def build_translators(config: Config) -> dict[str, nn.Module]:
    """Return, by target contrast, modules that a checkpoint's translator weights fit; in `eval` mode, on the CPU."""
    return {contrast: build_generator(config).eval() for contrast in config.contrasts}
