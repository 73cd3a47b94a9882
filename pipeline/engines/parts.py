"""From a configuration's `generator` and `discriminator` to networks: the one place where a name becomes a network."""

import math

from torch import nn

from networks.patchgan import PatchGAN
from networks.unet import UNet
from pipeline.config.schema import Config


def build_generator(config: Config) -> nn.Module:
    """Return a freshly initialised generator."""
    settings = config.generator
    depth = settings.depth or int(math.log2(config.preprocess.size))
    return UNet(depth=depth, width=settings.width, dropout=settings.dropout)


def build_discriminator(config: Config, channels: int = 1) -> nn.Module:
    """Return a freshly initialised discriminator of images with so many channels."""
    return PatchGAN(width=config.discriminator.width, layers=config.discriminator.layers)
