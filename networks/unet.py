"""The modified U-Net generator of the pix2pix and CycleGAN tutorials (Isola et al. 2017, section 6.1.1)."""

import torch
from torch import Tensor, nn

from networks.blocks import initialise_normal, instance_norm


class UNet(nn.Module):
    """A U-Net of 4×4 stride-2 convolutions with skips at every level and tanh at the end.

    At depth 8 and width 64 this is 256×256×1 → 1×1×512 → 256×256×1. The first layer has no norm, the innermost one
    neither (over a 1×1 map a norm would leave nothing but its offset); dropout follows the innermost `depth - 5`
    up-convolutions, three at most, which is the only source of noise and is off in `eval` mode.

    Args:
        depth: Number of halvings; the input's height and width must be multiples of `2**depth`.
        width: Channels of the first layer; they double per level up to 8 times this.
        dropout: Probability.
    """

    def __init__(self, depth: int = 8, width: int = 64, dropout: float = 0.5):
        super().__init__()
        self.stride = 2**depth
        channels = [width * 2 ** min(level, 3) for level in range(depth)]
        self.down = nn.ModuleList(
            _down(1 if level == 0 else channels[level - 1], channels[level], norm=0 < level < depth - 1)
            for level in range(depth)
        )
        dropped = min(3, max(0, depth - 5))
        self.up = nn.ModuleList(
            _up(channels[level] * (1 if level == depth - 1 else 2), channels[level - 1], dropout * (step < dropped))
            for step, level in enumerate(range(depth - 1, 0, -1))
        )
        self.last = nn.ConvTranspose2d(channels[0] * 2, 1, 4, 2, 1)
        initialise_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Translate (N, 1, H, W) in [-1, 1] to the same shape and range.

        Raises:
            ValueError: H or W is not a multiple of `stride`.
        """
        height, width = image.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"slices of {height}×{width} pixels do not fit a U-Net of {len(self.down)} levels; "
                f"pad both sides to multiples of {self.stride}"
            )
        skips = []
        features = image
        for down in self.down:
            features = down(features)
            skips.append(features)
        skips.pop()
        for up in self.up:
            features = torch.cat([up(features), skips.pop()], dim=1)
        return torch.tanh(self.last(features))


def _down(before: int, after: int, *, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(before, after, 4, 2, 1, bias=False)]
    if norm:
        layers.append(instance_norm(after))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2, inplace=True))


def _up(before: int, after: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), instance_norm(after)]
    if dropout > 0:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))
