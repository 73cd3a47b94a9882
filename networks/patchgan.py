"""The PatchGAN discriminator (Isola et al. 2017, section 3.2.2): one logit per overlapping patch."""

from math import gcd
from typing import Literal

from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from networks.blocks import as_group_norms, initialise_kaiming, initialise_normal

GROUPS = 8  # of channels that share a mean and a variance, with group norm


class PatchGAN(nn.Module):
    """MONAI's PatchDiscriminator, giving its logits only.

    At three `layers` between the first and the last convolution, of which all but the last halve the image, each logit
    sees 70×70 pixels, and a 256×256 image has 30×30 of them. Channels double per layer from `width` on. Of a pair, as
    the conditional discriminator of pix2pix judges it, there are two `in_channels`.

    `norm` is "instance"; "group" (Wu and He 2018), which keeps how channels of a group compare; or "none", which keeps
    the features' size too: offsets then take the norm's place, and weights are drawn for their fan-in.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        norm: Literal["instance", "group", "none"] = "instance",
        *,
        in_channels: int = 1,
    ):
        super().__init__()
        arguments = {"instance": {"affine": True}, "group": {"num_groups": gcd(GROUPS, 2 * width)}}
        network = PatchDiscriminator(
            spatial_dims=2,
            in_channels=in_channels,
            channels=width,
            num_layers_d=layers,
            norm=None if norm == "none" else (norm, arguments[norm]),  # type: ignore[arg-type]  # MONAI takes None
            bias=norm == "none",
            activation=("leakyrelu", {"negative_slope": 0.2, "inplace": True}),
        )
        initialise = initialise_kaiming if norm == "none" else initialise_normal
        self.network = initialise(as_group_norms(network))

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) in [-1, 1] to logits (N, 1, h, w), positive where a patch looks real."""
        return self.network(image)[-1]
