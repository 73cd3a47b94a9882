"""The ResNet generator of CycleGAN (Johnson et al. 2016; Zhu et al. 2017, section 7.2)."""

from itertools import pairwise

from torch import Tensor, nn

from networks.blocks import (
    ResidualBlock,
    Upsampling,
    conv_norm_act,
    initialise_normal,
    intermediate_features,
    reflect_conv,
    require_size,
    upsample,
)
from networks.output import output_image


class ResNetGenerator(nn.Module):
    """Down-sampling, residual blocks at the coarsest level, up-sampling, and tanh; no skips.

    At the default size, in the paper's notation: c7s1-64, d128, d256, nine R256, u128, u64, c7s1-1. The 7×7 layers and
    the residual blocks pad by reflection, d with zeros. Instance norm follows every convolution but the last; its
    learned offset replaces the convolution's bias.

    Args:
        blocks: Residual blocks; the paper has 9 for images of 256 pixels and more, 6 for smaller ones.
        width: Channels of the first layer; they double per halving.
        downs: Number of halvings.
        upsampling: "transposed" as published, or "nearest" against checkerboard; see `blocks.upsample`.

    Attributes:
        stride: Height and width must be multiples of this, and at least twice this.
        feature_channels: Channels of what `features` returns.
    """

    def __init__(self, blocks: int = 9, width: int = 64, downs: int = 2, *, upsampling: Upsampling = "transposed"):
        super().__init__()
        self.stride = 2**downs
        channels = [width * 2**level for level in range(downs + 1)]
        self.encoder = nn.Sequential(
            conv_norm_act(reflect_conv(1, width, 7), width),
            *(
                conv_norm_act(nn.Conv2d(fine, coarse, 3, 2, 1, bias=False), coarse)
                for fine, coarse in pairwise(channels)
            ),
            *(ResidualBlock(channels[-1]) for _ in range(blocks)),
        )
        self.decoder = nn.Sequential(
            *(
                conv_norm_act(upsample(coarse, fine, upsampling, kernel=3), fine)
                for coarse, fine in pairwise(reversed(channels))
            ),
            reflect_conv(width, 1, 7, bias=True),
        )
        tapped_blocks = [block for block in (0, 4) if block < blocks]
        self.taps = [*range(1, downs + 1), *(1 + downs + block for block in tapped_blocks)]
        self.feature_channels = [1, *channels[1:], *(channels[-1] for _ in tapped_blocks)]
        initialise_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Translate (N, 1, H, W) in [-1, 1] to the same shape and range.

        Raises:
            ValueError: H or W is not a multiple of `stride`, or less than twice `stride`.
        """
        self._require_size(image)
        return output_image(self.decoder[:-1](self.encoder(image)), self.decoder[-1])

    def features(self, image: Tensor) -> list[Tensor]:
        """Return what PatchNCE compares (Park et al. 2020, appendix C.2).

        The image, the output of each halving, and that of the first and of the fifth residual block, if it exists.

        Raises:
            ValueError: H or W is not a multiple of `stride`, or less than twice `stride`.
        """
        self._require_size(image)
        return intermediate_features(image, self.encoder, self.taps)

    def _require_size(self, image: Tensor) -> None:
        require_size(image, f"a ResNet generator of stride {self.stride}", self.stride, 2 * self.stride)
