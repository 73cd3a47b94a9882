"""A generator whose residual blocks are concatenated with their input instead of added to it."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from networks.blocks import Upsampling, conv_norm_act, instance_norm, upsample
from networks.resnet import TAPPED_BLOCKS, EncoderDecoder


class ConcatBlock(nn.Module):
    """Convolution, instance norm, LeakyReLU, convolution; the result joins the input as `growth` further channels."""

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


class ResidualConcatGenerator(EncoderDecoder):
    """Halvings with LeakyReLU, concatenating residual blocks, doublings with ReLU, one convolution and tanh.

    As concatenation keeps the input, the channels must grow. Here every block adds `width` channels, as in DenseNet
    (Huang et al. 2017), so that a block's cost grows linearly and not exponentially: at the default size 128 → 192 → …
    → 512 channels over six blocks at a quarter of the resolution. `features` are the image, each halving, and the first
    and the fifth block. For `upsampling` see `blocks.upsample`.
    """

    def __init__(
        self,
        blocks: int = 6,
        width: int = 64,
        downs: int = 2,
        *,
        upsampling: Upsampling = "transposed",
        in_channels: int = 1,
    ):
        levels = [width * 2**level for level in range(downs)]
        block_channels = [levels[-1] + width * block for block in range(blocks + 1)]
        encoder = [
            *(_down(fine, coarse) for fine, coarse in pairwise([in_channels, *levels])),
            *(ConcatBlock(channels, width) for channels in block_channels[:-1]),
        ]
        decoder = [
            *(
                conv_norm_act(upsample(coarse, fine, upsampling, kernel=4), fine)
                for coarse, fine in pairwise([block_channels[-1], *reversed(levels)])
            ),
            nn.Conv2d(width, 1, 7, 1, 3),
        ]
        tapped_blocks = {downs + block: block_channels[block + 1] for block in TAPPED_BLOCKS if block < blocks}
        taps = dict(enumerate(levels)) | tapped_blocks
        super().__init__("a residual-concatenation generator", encoder, decoder, downs, taps, in_channels)


def _down(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=False)
    return nn.Sequential(convolution, instance_norm(out_channels), nn.LeakyReLU(0.2, inplace=True))
