"""The ResNet generator of CycleGAN (Johnson et al. 2016; Zhu et al. 2017, section 7.2), and its parts for others."""

from collections.abc import Iterable, Mapping
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

TAPPED_BLOCKS = 0, 4  # residual blocks that PatchNCE compares, of those that there are


class EncoderDecoder(nn.Module):
    """A generator without skips: one layer after the other, and tanh; weights are drawn from N(0, 0.02).

    `name` is what messages call it, with its article; the decoder's last layer gives a single channel; `taps` has the
    number of channels of the encoder's layers that `features` returns (`feature_channels`, after the image's), by the
    layer's index. Height and width must be multiples of `stride`, and at least twice that, else `forward` raises a
    ValueError.
    """

    def __init__(
        self,
        name: str,
        encoder: Iterable[nn.Module],
        decoder: Iterable[nn.Module],
        downs: int,
        taps: Mapping[int, int],
        in_channels: int = 1,
    ):
        super().__init__()
        self.name, self.stride = name, 2**downs
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.taps, self.feature_channels = [*taps], [in_channels, *taps.values()]
        initialise_normal(self)

    def forward(self, image: Tensor, offset: Tensor | None = None) -> Tensor:
        """Translate (N, in_channels, H, W) in [-1, 1] to (N, 1, H, W) in that range; `offset` as in `output_image`."""
        self._require_size(image)
        return output_image(self.decoder[:-1](self.encoder(image)), self.last, offset)

    @property
    def last(self) -> nn.Module:
        """The layer that gives the image, before tanh."""
        return self.decoder[-1]

    def features(self, image: Tensor) -> list[Tensor]:
        """Return what PatchNCE compares: the image, and the outputs of the tapped layers; raises as `forward`."""
        self._require_size(image)
        return intermediate_features(image, self.encoder, self.taps)

    def _require_size(self, image: Tensor) -> None:
        require_size(image, f"{self.name} of stride {self.stride}", self.stride, 2 * self.stride)


class ResNetGenerator(EncoderDecoder):
    """Down-sampling, residual blocks at the coarsest level, up-sampling, and tanh; no skips.

    At the default size, in the paper's notation: c7s1-64, d128, d256, nine R256 (six for images below 256 pixels),
    u128, u64, c7s1-1. The 7×7 layers and the residual blocks pad by reflection, d with zeros. Instance norm follows
    every convolution but the last; its learned offset replaces the convolution's bias. Up-sampling is "transposed" as
    published, or "nearest" against checkerboard; see `blocks.upsample`.

    `features` are those of Park et al. 2020, appendix C.2: the image, the output of each halving, and that of the first
    and of the fifth residual block, if it exists.
    """

    def __init__(
        self,
        blocks: int = 9,
        width: int = 64,
        downs: int = 2,
        *,
        upsampling: Upsampling = "transposed",
        in_channels: int = 1,
    ):
        halvings = {level: width * 2**level for level in range(1, downs + 1)}
        tapped_blocks = {1 + downs + block: width * 2**downs for block in TAPPED_BLOCKS if block < blocks}
        encoder = encoder_layers(width, downs, blocks, in_channels)
        decoder = decoder_layers(width, downs, 0, upsampling)
        super().__init__("a ResNet generator", encoder, decoder, downs, halvings | tapped_blocks, in_channels)


def encoder_layers(width: int, downs: int, blocks: int, in_channels: int = 1) -> list[nn.Module]:
    """Return c7s1, halvings by 3×3 kernels and residual blocks."""
    channels = [width * 2**level for level in range(downs + 1)]
    return [
        conv_norm_act(reflect_conv(in_channels, width, 7), width),
        *(conv_norm_act(nn.Conv2d(fine, coarse, 3, 2, 1, bias=False), coarse) for fine, coarse in pairwise(channels)),
        *(ResidualBlock(channels[-1]) for _ in range(blocks)),
    ]


def decoder_layers(width: int, ups: int, blocks: int, upsampling: Upsampling) -> list[nn.Module]:
    """Return residual blocks, doublings and c7s1: the mirror image of `encoder_layers`."""
    channels = [width * 2**level for level in range(ups, -1, -1)]
    return [
        *(ResidualBlock(channels[0]) for _ in range(blocks)),
        *(conv_norm_act(upsample(coarse, fine, upsampling, kernel=3), fine) for coarse, fine in pairwise(channels)),
        reflect_conv(width, 1, 7, bias=True),
    ]
