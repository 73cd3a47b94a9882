"""The multi-scale discriminator of MUNIT (Wang et al. 2018, section 3.2; Huang et al. 2018, appendix B.2)."""

from itertools import pairwise

from torch import Tensor, nn

from networks.blocks import initialise_normal, reflect_conv, require_size


class MultiScaleDiscriminator(nn.Module):
    """Discriminators of the same structure, one for each of several resolutions of the image (`scales`).

    Each is a row of 4×4 stride-2 convolutions (`layers`, whose channels double from `width` on) with LeakyReLU and no
    norm, and a 1×1 convolution to the logits. Between scales the image is halved by averaging 3×3 pixels. At four
    layers a logit sees 46×46, 93×93 and 187×187 pixels. Height and width must be at least `minimum_size`.
    """

    def __init__(self, scales: int = 3, layers: int = 4, width: int = 64, *, in_channels: int = 1):
        super().__init__()
        self.minimum_size = 2 ** (layers + scales - 1)
        self.halve = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.scales = nn.ModuleList(_scale_discriminator(layers, width, in_channels) for _ in range(scales))
        initialise_normal(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (N, in_channels, H, W) in [-1, 1] to logits (N, 1, h, w) at each scale, the finest first."""
        require_size(image, f"a discriminator of {len(self.scales)} scales", minimum=self.minimum_size)
        logits = []
        for index, scale in enumerate(self.scales):
            if index > 0:
                image = self.halve(image)
            logits.append(scale(image))
        return logits


def _scale_discriminator(layers: int, width: int, in_channels: int) -> nn.Sequential:
    channels = [in_channels, *(width * 2**layer for layer in range(layers))]
    convolutions: list[nn.Module] = []
    for in_size, out_size in pairwise(channels):
        convolutions += [reflect_conv(in_size, out_size, 4, 2, bias=True), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*convolutions, nn.Conv2d(channels[-1], 1, 1))
