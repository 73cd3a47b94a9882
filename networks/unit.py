"""The auto-encoders of UNIT, which map two contrasts to one latent space (Liu, Breuel and Kautz 2017)."""

from torch import Tensor, nn

from networks.blocks import Upsampling, initialise_normal, require_size
from networks.output import output_image
from networks.resnet import decoder_layers, encoder_layers


class LatentEncoder(nn.Sequential):
    """c7s1-64, 3×3 halvings, whose channels double, and residual blocks, all with instance norm.

    Height and width must be multiples of `stride`, and at least twice that, else `forward` raises a ValueError.
    """

    def __init__(self, width: int = 64, downs: int = 2, blocks: int = 4):
        super().__init__(*encoder_layers(width, downs, blocks))
        self.stride = 2**downs

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, H, W) in [-1, 1] to the means of its latents (N, C, H / stride, W / stride)."""
        require_size(image, f"a UNIT encoder of stride {self.stride}", self.stride, 2 * self.stride)
        return super().forward(image)


class LatentDecoder(nn.Sequential):
    """Residual blocks, which come first, doublings and c7s1-1 with tanh: the encoder's mirror image."""

    def __init__(self, width: int = 64, ups: int = 2, blocks: int = 4, *, upsampling: Upsampling = "transposed"):
        super().__init__(*decoder_layers(width, ups, blocks, upsampling))

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents (N, C, h, w), of this contrast or the other, to images in [-1, 1]."""
        *layers, last = self
        for layer in layers:
            latent = layer(latent)
        return output_image(latent, last)


class LatentAutoEncoder(nn.Module):
    """Encoder and decoder of one contrast: the layers of CycleGAN's ResNet generator, the latent amid its blocks.

    The latent of an image is normally distributed about the mean that the encoder gives, with variance 1 (section 3).
    Each half has so many residual `blocks`. Height and width must be multiples of `stride`, at least twice that; else
    ValueError.
    """

    def __init__(self, width: int = 64, downs: int = 2, blocks: int = 4, *, upsampling: Upsampling = "transposed"):
        super().__init__()
        self.stride = 2**downs
        self.encoder = LatentEncoder(width, downs, blocks)
        self.decoder = LatentDecoder(width, downs, blocks, upsampling=upsampling)
        initialise_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct (N, 1, H, W) in [-1, 1] from its mean latent."""
        return self.decoder(self.encoder(image))


def share_blocks(first: LatentAutoEncoder, second: LatentAutoEncoder, count: int) -> None:
    """Share the residual blocks next to the latent, `count` on either side of it: the second takes the first's.

    The last blocks of both encoders and the first of both decoders are then the same modules (section 3,
    "weight-sharing"). Both auto-encoders must have the same size, and at least `count` blocks.
    """
    for index in range(count):
        second.encoder[-1 - index] = first.encoder[-1 - index]
        second.decoder[index] = first.decoder[index]


class LatentTranslator(nn.Module):
    """A translator without noise, of one contrast's encoder and the other's decoder, which are shared, not copied."""

    def __init__(self, encoder: LatentEncoder, decoder: LatentDecoder):
        super().__init__()
        self.stride, self.encoder, self.decoder = encoder.stride, encoder, decoder

    def forward(self, image: Tensor) -> Tensor:
        """Translate (N, 1, H, W) in [-1, 1] to the same shape and range, by way of the latent's mean."""
        return self.decoder(self.encoder(image))
