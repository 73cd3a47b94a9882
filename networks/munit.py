"""The auto-encoders of MUNIT, which split an image into content and style (Huang et al. 2018, appendix B.2)."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

from networks.blocks import ResidualBlock, conv_norm_act, initialise_kaiming, reflect_conv, require_size
from networks.output import output_image

SLICES_AT_ONCE = 16


class ContentEncoder(nn.Module):
    """c7s1-64, 4×4 halvings (`downs`) and residual blocks, all with instance norm: the norms remove the style.

    Channels double per halving from `width` to `channels`. Height and width must be multiples of `stride`, and at least
    twice that, else `forward` raises a ValueError.
    """

    def __init__(self, width: int = 64, downs: int = 2, blocks: int = 4):
        super().__init__()
        levels = [width * 2**level for level in range(downs + 1)]
        self.stride, self.channels = 2**downs, levels[-1]
        self.layers = nn.Sequential(
            conv_norm_act(reflect_conv(1, width, 7), width),
            *(conv_norm_act(reflect_conv(fine, coarse, 4, 2), coarse) for fine, coarse in pairwise(levels)),
            *(ResidualBlock(self.channels) for _ in range(blocks)),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, H, W) in [-1, 1] to content (N, channels, H / stride, W / stride)."""
        require_size(image, f"a content encoder of stride {self.stride}", self.stride, 2 * self.stride)
        return self.layers(image)


class StyleEncoder(nn.Module):
    """c7s1-64, 4×4 halvings, the average over all pixels and a 1×1 convolution; no norm, which would remove the style.

    The first two halvings double the channels.
    """

    def __init__(self, width: int = 64, downs: int = 4, style_dim: int = 8):
        super().__init__()
        levels = [width * 2 ** min(level, 2) for level in range(downs + 1)]
        self.downs = downs
        self.layers = nn.Sequential(
            *(reflect_conv(1, width, 7, bias=True), nn.ReLU(inplace=True)),
            *(
                nn.Sequential(reflect_conv(fine, coarse, 4, 2, bias=True), nn.ReLU(inplace=True))
                for fine, coarse in pairwise(levels)
            ),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(levels[-1], style_dim, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, H, W) in [-1, 1] to styles (N, style_dim); ValueError: H or W is less than `2**downs`."""
        require_size(image, f"a style encoder of {self.downs} halvings", minimum=max(4, 2**self.downs))
        return self.layers(image).flatten(1)


class AdaptiveResidualBlock(nn.Module):
    """A residual block whose norms take scale and offset from outside (AdaIN; Huang and Belongie 2017)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = reflect_conv(channels, channels, 3)
        self.second = reflect_conv(channels, channels, 3)

    def forward(self, features: Tensor, affine: Tensor) -> Tensor:
        """Map features (N, C, H, W), H and W at least 2, to that shape.

        `affine`, (N, 4C), has scale and offset of the first norm, then of the second.
        """
        first_scale, first_offset, second_scale, second_offset = affine[..., None, None].chunk(4, dim=1)
        hidden = torch.relu(_standardise(self.first(features)) * first_scale + first_offset)
        return features + _standardise(self.second(hidden)) * second_scale + second_offset


class Decoder(nn.Module):
    """AdaIN residual blocks fed by a perceptron, doublings by repetition (`ups`), and tanh.

    A doubling is followed by a 5×5 convolution and layer norm (over all channels and pixels at once: instance norm
    would remove the style). The last layer has `width` channels, the content `2**ups` times as many, and each of the
    perceptron's two hidden layers `mlp_width` units.
    """

    def __init__(self, width: int = 64, ups: int = 2, blocks: int = 4, style_dim: int = 8, mlp_width: int = 256):
        super().__init__()
        levels = [width * 2**level for level in range(ups, -1, -1)]
        self.blocks = nn.ModuleList(AdaptiveResidualBlock(levels[0]) for _ in range(blocks))
        self.perceptron = nn.Sequential(
            *(nn.Linear(style_dim, mlp_width), nn.ReLU(inplace=True)),
            *(nn.Linear(mlp_width, mlp_width), nn.ReLU(inplace=True)),
            nn.Linear(mlp_width, blocks * 4 * levels[0]),
        )
        self.up = nn.Sequential(*(_up(coarse, fine) for coarse, fine in pairwise(levels)))
        self.last = reflect_conv(width, 1, 7, bias=True)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Map content (N, C, h, w) and styles (N, style_dim), or one for all (1, style_dim), to images in [-1, 1]."""
        affine = self.perceptron(style).chunk(len(self.blocks), dim=1)
        for block, block_affine in zip(self.blocks, affine, strict=True):
            content = block(content, block_affine)
        return output_image(self.up(content), self.last)


class AutoEncoder(nn.Module):
    """Content encoder, style encoder and decoder, which mirrors the content encoder, of one contrast.

    Height and width must be multiples of `stride`, at least twice that, and large enough for the style encoder's
    `style_downs` halvings; else ValueError.
    """

    def __init__(
        self,
        width: int = 64,
        downs: int = 2,
        blocks: int = 4,
        *,
        style_dim: int = 8,
        style_downs: int = 4,
        mlp_width: int = 256,
    ):
        super().__init__()
        self.stride, self.style_dim = 2**downs, style_dim
        self.content_encoder = ContentEncoder(width, downs, blocks)
        self.style_encoder = StyleEncoder(width, style_downs, style_dim)
        self.decoder = Decoder(width, downs, blocks, style_dim, mlp_width)
        initialise_kaiming(self)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Split (N, 1, H, W) in [-1, 1] into content (N, C, H / stride, W / stride) and styles (N, style_dim)."""
        return self.content_encoder(image), self.style_encoder(image)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """Join content, of this contrast or the other, and styles of this one; see `Decoder.forward`."""
        return self.decoder(content, style)

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct (N, 1, H, W) in [-1, 1]."""
        return self.decode(*self.encode(image))


class StyleTranslator(nn.Module):
    """Translates with one style for every slice, so that the slices of a volume agree.

    Made of the source contrast's content encoder and the target's auto-encoder, whose parts are shared, not copied.
    Height and width must be multiples of `stride`, and at least twice that; else ValueError. The buffer `style`, (1,
    style_dim), is saved with the weights; zeros, the mean of the prior, until set.
    """

    style: Tensor

    def __init__(self, content_encoder: ContentEncoder, target: AutoEncoder):
        super().__init__()
        self.stride = content_encoder.stride
        self.content_encoder = content_encoder
        self.style_encoder = target.style_encoder
        self.decoder = target.decoder
        self.register_buffer("style", torch.zeros(1, target.style_dim))

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        """Translate (N, 1, H, W) in [-1, 1] to the same shape and range, in the style (1, style_dim), or its own."""
        return self.decoder(self.content_encoder(image), self.style if style is None else style)

    def translating_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights that `forward` uses: all but the style encoder's, which are for `encode_style` alone."""
        yield from self.content_encoder.parameters()
        yield from self.decoder.parameters()

    @torch.no_grad()
    def encode_style(self, slices: Tensor) -> Tensor:
        """Return the mean style (style_dim,) of slices (N, 1, H, W) of the target contrast in [-1, 1]."""
        return torch.cat([self.style_encoder(batch) for batch in slices.split(SLICES_AT_ONCE)]).mean(dim=0)

    @torch.no_grad()
    def set_style(self, style: Tensor) -> None:
        """Translate with this style (style_dim,) from now on; ValueError: it has another shape, or is not finite."""
        shape = tuple(style.shape)
        if shape != self.style.shape[1:] or not style.isfinite().all():
            problem = f"of shape {shape}" if shape != self.style.shape[1:] else "that is not finite"
            raise ValueError(f"a style {problem}; it must be {self.style.shape[1]} finite numbers")
        self.style.copy_(style)


def _standardise(features: Tensor) -> Tensor:
    return group_norm(features, features.shape[1])  # one channel a group: instance norm


def _up(in_channels: int, out_channels: int) -> nn.Sequential:
    layer_norm = nn.GroupNorm(1, out_channels)  # all channels in one group: layer norm, its scale and offset by channel
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        reflect_conv(in_channels, out_channels, 5, bias=True),
        layer_norm,
        nn.ReLU(True),
    )
