"""Builds networks from a configuration's `generator` and `discriminator`; only here does a name become a network."""

import math

from torch import nn

from networks.multiscale import MultiScaleDiscriminator
from networks.munit import AutoEncoder
from networks.patchgan import PatchGAN
from networks.residual_concat import ResidualConcatGenerator
from networks.resnet import ResNetGenerator
from networks.unet import UNet
from networks.unit import LatentAutoEncoder
from pipeline.config.schema import Config


def build_generator(config: Config) -> nn.Module:
    """Return a freshly initialised generator; for `munit` and `unit`, one contrast's auto-encoder."""
    settings = config.generator
    if settings.type == "unet":
        return UNet(
            depth=settings.depth or int(math.log2(config.preprocess.size)),
            width=settings.width,
            dropout=settings.dropout,
            attention=settings.attention,
            upsampling=settings.upsampling,
        )
    if settings.type == "munit":
        return AutoEncoder(
            settings.width,
            settings.downs,
            settings.blocks,
            style_dim=settings.style_size,
            style_downs=settings.style_downs,
            mlp_width=settings.mlp_width,
        )
    classes = {"resnet": ResNetGenerator, "residual_concat": ResidualConcatGenerator, "unit": LatentAutoEncoder}
    network_class = classes[settings.type]
    return network_class(
        blocks=settings.blocks, width=settings.width, downs=settings.downs, upsampling=settings.upsampling
    )


def build_discriminator(config: Config, channels: int = 1) -> nn.Module:
    """Return a freshly initialised discriminator of images with `channels` channels."""
    settings = config.discriminator
    options = {
        "width": settings.width,
        "layers": settings.layers,
        "in_channels": channels,
        "spectral_norm": settings.spectral_norm,
    }
    if settings.type == "multiscale":
        return MultiScaleDiscriminator(scales=settings.scales, **options)
    return PatchGAN(**options)
