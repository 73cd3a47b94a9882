"""The PatchGAN discriminator (Isola et al. 2017, section 3.2.2): one logit per overlapping patch."""

from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from networks.blocks import initialise_normal


class PatchGAN(nn.Module):
    """MONAI's PatchDiscriminator with instance norm, giving its logits only.

    At three layers each logit sees 70×70 pixels, and a 256×256 image has 30×30 of them.

    Args:
        width: Channels of the first layer; they double per layer.
        layers: Convolutions between the first and the last one; all but the last of these halve the image.
    """

    def __init__(self, width: int = 64, layers: int = 3):
        super().__init__()
        self.network = initialise_normal(
            PatchDiscriminator(
                spatial_dims=2, in_channels=1, channels=width, num_layers_d=layers, norm=("instance", {"affine": True})
            )
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, H, W) in [-1, 1] to logits (N, 1, h, w), positive where a patch looks real."""
        return self.network(image)[-1]


def receptive_field(layers: int) -> int:
    """Return the side, in pixels, of the patch one logit sees."""
    size = 1
    for stride in [1, 1, *[2] * layers]:  # from the logit back to the image; every kernel is 4×4
        size = (size - 1) * stride + 4
    return size
