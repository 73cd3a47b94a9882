import pytest
import torch
from network_probes import parameters, random_image, sees_a_square_of, shapes_of
from torch import nn

from networks.residual_concat import ConcatBlock, ResidualConcatGenerator


def full_size(**options):
    with torch.device("meta"):
        return ResidualConcatGenerator(**options)


def test_every_layer_has_its_shape_at_256():
    network = full_size()
    image = torch.zeros(1, 1, 256, 256, device="meta")
    assert shapes_of(network.encoder, lambda: network(image)) == [
        (64, 128, 128), (128, 64, 64), *((128 + 64 * block, 64, 64) for block in range(1, 7)),
    ]  # fmt: skip
    assert shapes_of(network.decoder, lambda: network(image)) == [(128, 128, 128), (64, 256, 256), (1, 256, 256)]


def test_the_parameters_are_those_counted_by_hand():
    down = 4 * 4 * (1 * 64 + 64 * 128)
    grown = 128 + 192 + 256 + 320 + 384 + 448
    blocks = 3 * 3 * (grown * 64 + 6 * 64 * 64) + 6 * (2 * 64 + 64)  # with a norm within and a bias at the end
    up = 4 * 4 * (512 * 128 + 128 * 64)
    norms = 2 * (64 + 128 + 128 + 64)
    assert parameters(full_size()) == down + blocks + up + 7 * 7 * 64 + 1 + norms == 2_533_313
    assert parameters(full_size(upsampling="nearest")) == 2_533_313 - up + 3 * 3 * (512 * 128 + 128 * 64)


def test_a_block_keeps_its_input_and_adds_to_the_channels():
    torch.manual_seed(0)
    block = ConcatBlock(3, growth=5)
    features = random_image(2, 3, 6, 4)
    out = block(features)
    assert out.shape == (2, 8, 6, 4)
    assert torch.equal(out[:, :3], features)
    assert torch.equal(out[:, 3:], block.layers(features))
    assert [type(layer) for layer in block.layers] == [nn.Conv2d, nn.GroupNorm, nn.LeakyReLU, nn.Conv2d]


@pytest.mark.parametrize(("blocks", "channels"), [(6, [1, 64, 128, 192, 448]), (4, [1, 64, 128, 192])])
def test_features_are_the_image_the_halvings_and_two_blocks(blocks, channels):
    network = full_size(blocks=blocks)
    features = network.features(torch.zeros(2, 1, 64, 32, device="meta"))
    assert network.feature_channels == [layer.shape[1] for layer in features] == channels
    assert [tuple(layer.shape[2:]) for layer in features] == [(64, 32), (32, 16), *[(16, 8)] * (len(channels) - 2)]


# A block adds 2 · 2 pixels of its level, a 4×4 convolution of stride 2 makes 2r + 2 of r: 1 → 4 → 10; 5 → 12 → 26;
# 21 → 44 → 90. A block's own channels, the last ones, see further than those it passes on.
@pytest.mark.parametrize(("feature", "side"), [(1, 4), (2, 10), (3, 26), (4, 90)])
def test_a_feature_depends_on_exactly_its_receptive_field(feature, side):
    network = ResidualConcatGenerator(blocks=5, width=2)
    assert sees_a_square_of(side, network, 128, lambda image: network.features(image)[feature][:, -1:])
