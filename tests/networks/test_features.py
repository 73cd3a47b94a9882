"""What generators show contrastive translation: layers of which shapes, and how far each of them sees."""

import pytest
import torch
from network_probes import full_size, sees_a_square_of

from networks.residual_concat import ResidualConcatGenerator
from networks.resnet import ResNetGenerator
from networks.skip import SkipGenerator
from networks.unet import UNet


@pytest.mark.parametrize(
    ("generator", "blocks", "channels"),
    [
        (ResidualConcatGenerator, 6, [1, 64, 128, 192, 448]),
        (ResidualConcatGenerator, 4, [1, 64, 128, 192]),
        (ResNetGenerator, 9, [1, 128, 256, 256, 256]),
        (ResNetGenerator, 5, [1, 128, 256, 256, 256]),
        (ResNetGenerator, 4, [1, 128, 256, 256]),
        (SkipGenerator, 5, [1, 32, 64, 64, 64]),
        (SkipGenerator, 4, [1, 32, 64, 64]),
    ],
)
def test_features_are_the_image_the_halvings_and_two_blocks(generator, blocks, channels):
    network = full_size(generator, blocks=blocks)
    features = network.features(torch.zeros(2, 1, 64, 32, device="meta"))
    assert network.feature_channels == [layer.shape[1] for layer in features] == channels
    assert [tuple(layer.shape[2:]) for layer in features] == [(64, 32), (32, 16), *[(16, 8)] * (len(channels) - 2)]


def test_features_of_the_u_net_are_the_image_and_the_four_outer_levels():
    network = full_size(UNet)
    features = network.features(torch.zeros(2, 1, 256, 512, device="meta"))
    assert network.feature_channels == [layer.shape[1] for layer in features] == [1, 64, 128, 256, 512]
    assert [layer.shape[2] for layer in features] == [256, 128, 64, 32, 16]


FIELDS = {  # the side of the square that each feature sees, after the image itself
    # A block adds 2 · 2 pixels of its level, a 4×4 convolution of stride 2 makes 2r + 2 of r: 1 → 4 → 10; 5 → 12 → 26;
    # 21 → 44 → 90. A block's own channels, the last ones, see further than those it passes on.
    ResidualConcatGenerator: (4, 10, 26, 90),
    # The 3×3 convolution of stride 2 makes 2r + 1 of r, the 7×7 adds 6: 1 → 3 → 9 after the first halving;
    # 1 → 3 → 7 → 13 after the second; 5 → 11 → 23 → 29 after a block; 21 → 43 → 87 → 93.
    ResNetGenerator: (9, 13, 29, 93),
    # 4×4 again, and the 5×5 adds 4: 1 → 4 → 8; 1 → 4 → 10 → 14; 5 → 12 → 26 → 30; 21 → 44 → 90 → 94.
    SkipGenerator: (8, 14, 30, 94),
    UNet: (4, 10, 22, 46),  # 2r + 2 each
}


@pytest.mark.parametrize(
    ("generator", "feature", "side"),
    [(generator, index, side) for generator, sides in FIELDS.items() for index, side in enumerate(sides, 1)],
)
def test_a_feature_depends_on_exactly_its_receptive_field(generator, feature, side):
    network = UNet(depth=5, width=1) if generator is UNet else generator(blocks=5, width=2)
    own = slice(-1, None) if generator is ResidualConcatGenerator else slice(None)
    size = 96 if generator is UNet else 128
    assert sees_a_square_of(side, network, size, lambda image: network.features(image)[feature][:, own])
