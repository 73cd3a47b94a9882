"""A generator whose residual blocks are concatenated with their input instead of added to it."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from networks.blocks import (
    Upsampling,
    conv_norm_act,
    initialise_normal,
    instance_norm,
    intermediate_features,
    require_size,
    upsample,
)
from networks.output import output_image


class ConcatBlock(nn.Module):
    """Convolution, instance norm, LeakyReLU, convolution; the result joins the input as further channels.

    Args:
        channels: Channels of the input.
        growth: Channels that are added.
    """

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, growth, 3, 1, 1, bias=False),
            instance_norm(growth),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(growth, growth, 3, 1, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, channels + growth, H, W), the input first."""
        return torch.cat([features, self.layers(features)], dim=1)


class ResidualConcatGenerator(nn.Module):
    """Halvings with LeakyReLU, concatenating residual blocks, doublings with ReLU, one convolution and tanh.

    As concatenation keeps the input, the channels must grow. Here every block adds the same number, as in DenseNet
    (Huang et al. 2017), so that a block's cost grows linearly and not exponentially: at the
    default size 128 → 192 → … → 512 channels over six blocks at a quarter of the resolution.

    Args:
        blocks: Residual blocks.
        width: Channels of the first layer; they double per halving.
        downs: Number of halvings.
        growth: Channels that each block adds; None: `width`.
        upsampling: "transposed", or "nearest" against checkerboard; see `blocks.upsample`.

    Attributes:
        stride: Height and width must be multiples of this, and at least twice this.
        feature_channels: Channels of what `features` returns.
    """

    def __init__(
        self,
        blocks: int = 6,
        width: int = 64,
        downs: int = 2,
        *,
        growth: int | None = None,
        upsampling: Upsampling = "transposed",
    ):
        super().__init__()
        self.stride = 2**downs
        growth = growth or width
        levels = [width * 2**level for level in range(downs)]
        block_channels = [levels[-1] + growth * block for block in range(blocks + 1)]
        self.encoder = nn.Sequential(
            *(_down(fine, coarse) for fine, coarse in pairwise([1, *levels])),
            *(ConcatBlock(channels, growth) for channels in block_channels[:-1]),
        )
        self.decoder = nn.Sequential(
            *(
                conv_norm_act(upsample(coarse, fine, upsampling, kernel=4), fine)
                for coarse, fine in pairwise([block_channels[-1], *reversed(levels)])
            ),
            nn.Conv2d(width, 1, 7, 1, 3),
        )
        tapped_blocks = [block for block in (0, 4) if block < blocks]
        self.taps = [*range(downs), *(downs + block for block in tapped_blocks)]
        self.feature_channels = [1, *levels, *(block_channels[block + 1] for block in tapped_blocks)]
        initialise_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Translate (N, 1, H, W) in [-1, 1] to the same shape and range.

        Raises:
            ValueError: H or W is not a multiple of `stride`, or less than twice `stride`.
        """
        self._require_size(image)
        return output_image(self.decoder[:-1](self.encoder(image)), self.decoder[-1])

    def features(self, image: Tensor) -> list[Tensor]:
        """Return what PatchNCE compares: the image, each halving, and the first and the fifth block.

        Raises:
            ValueError: H or W is not a multiple of `stride`, or less than twice `stride`.
        """
        self._require_size(image)
        return intermediate_features(image, self.encoder, self.taps)

    def _require_size(self, image: Tensor) -> None:
        require_size(image, f"a residual-concatenation generator of stride {self.stride}", self.stride, 2 * self.stride)


def _down(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=False)
    return nn.Sequential(convolution, instance_norm(out_channels), nn.LeakyReLU(0.2, inplace=True))
