"""Pieces that several networks share."""

from torch import nn


def instance_norm(channels: int) -> nn.GroupNorm:
    """Return instance normalisation with learned scale and offset (Ulyanov et al. 2016).

    It is spelt as group normalisation with one channel a group: the same arithmetic, faster on CPU, and defined for
    a 1×1 map, where `nn.InstanceNorm2d` raises.
    """
    return nn.GroupNorm(channels, channels)


def initialise_normal(network: nn.Module, deviation: float = 0.02) -> nn.Module:
    """Draw convolution weights from N(0, deviation) and norm scales from N(1, deviation); zero all offsets.

    Returns the network, for chaining (Radford et al. 2016, section 3; used by pix2pix and CycleGAN).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, deviation)
        elif isinstance(module, nn.GroupNorm | nn.InstanceNorm2d) and module.weight is not None:
            nn.init.normal_(module.weight, 1.0, deviation)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network
