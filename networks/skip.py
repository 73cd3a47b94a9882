"""A generator that keeps detail: few halvings, and the features of every size added to those made from coarser ones."""

from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from networks.blocks import (
    conv_norm_act,
    initialise_kaiming,
    initialise_normal,
    instance_norm,
    intermediate_features,
    reflect_conv,
    require_size,
    upsample,
)
from networks.output import output_image
from networks.resnet import TAPPED_BLOCKS

Norm = Literal["instance", "none"]
INITIAL_SCALE = 0.2  # of what a residual block adds, so that a fresh network's detail is not drowned
LAST_DEVIATION = 0.02  # of the last layer's weights without norms: He's would saturate tanh


class ScaledResidualBlock(nn.Module):
    """Two 3×3 convolutions with ReLU between them; their output, times a learned number, is added to their input."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        convolution = partial(reflect_conv, channels, channels, 3, bias=norm == "none")
        self.layers = nn.Sequential(_layer(convolution(), channels, norm), convolution())
        if norm == "instance":
            self.layers.append(instance_norm(channels))
        self.scale = nn.Parameter(torch.tensor(INITIAL_SCALE))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape; H and W must be at least 2."""
        return features + self.scale * self.layers(features)


class SkipGenerator(nn.Module):
    """A 5×5 stem, halvings by 4×4 kernels, scaled residual blocks, doublings and tanh, with additive skips.

    Each doubling repeats pixels and convolves by 3×3; the encoder's features of that size, the stem's of full size
    among them, are added to its output. Unlike concatenated features (a U-Net's), added ones cost no weights. Channels
    double per halving, from `width` up to 4 times that. Borders are padded by reflection; every layer but the last has
    ReLU. Without `norm` ("none") layers have offsets instead, and weights are drawn as He et al. (2015) do.

    `features` are, as a ResNet generator's, the image, each halving, and the first and the fifth block, if it exists.
    Height and width must be multiples of `stride`, and at least twice that, else `forward` raises a ValueError.
    """

    def __init__(
        self, blocks: int = 4, width: int = 16, downs: int = 2, *, norm: Norm = "instance", in_channels: int = 1
    ):
        super().__init__()
        self.stride, bias = 2**downs, norm == "none"
        channels = [width * 2 ** min(level, 2) for level in range(downs + 1)]
        stem = _layer(reflect_conv(in_channels, width, 5, bias=bias), width, norm)
        halvings = (
            _layer(reflect_conv(fine, coarse, 4, 2, bias=bias), coarse, norm) for fine, coarse in pairwise(channels)
        )
        doublings = (
            _layer(upsample(coarse, fine, "nearest", kernel=3, bias=bias), fine, norm)
            for coarse, fine in pairwise(reversed(channels))
        )
        self.down = nn.ModuleList([stem, *halvings])
        self.blocks = nn.Sequential(*(ScaledResidualBlock(channels[-1], norm) for _ in range(blocks)))
        self.up = nn.ModuleList(doublings)
        self.last = reflect_conv(width, 1, 5, bias=True)
        tapped_blocks = [block for block in TAPPED_BLOCKS if block < blocks]
        self.taps = [*range(1, downs + 1), *(1 + downs + block for block in tapped_blocks)]
        self.feature_channels = [in_channels, *channels[1:], *(channels[-1] for _ in tapped_blocks)]
        if norm == "none":
            initialise_kaiming(self)
            initialise_normal(self.last, LAST_DEVIATION)
        else:
            initialise_normal(self)

    def forward(self, image: Tensor, offset: Tensor | None = None) -> Tensor:
        """Translate (N, in_channels, H, W) in [-1, 1] to (N, 1, H, W) in that range; `offset` as in `output_image`."""
        self._require_size(image)
        skips, features = [], image
        for down in self.down:
            features = down(features)
            skips.append(features)
        skips.pop()
        features = self.blocks(features)
        for up in self.up:
            features = up(features) + skips.pop()
        return output_image(features, self.last, offset)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return what PatchNCE compares: the image, and the outputs of the tapped layers; raises as `forward`."""
        self._require_size(image)
        return intermediate_features(image, [*self.down, *self.blocks], self.taps)

    def _require_size(self, image: Tensor) -> None:
        require_size(image, f"a skip generator of stride {self.stride}", self.stride, 2 * self.stride)


def _layer(convolution: nn.Module, channels: int, norm: Norm) -> nn.Sequential:
    """Return a convolution that gives `channels`, the norm and ReLU."""
    if norm == "instance":
        return conv_norm_act(convolution, channels)
    return nn.Sequential(convolution, nn.ReLU(inplace=True))
