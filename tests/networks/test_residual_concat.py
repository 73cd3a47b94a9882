import torch
from network_probes import full_size, parameters, random_image, shapes_of
from torch import nn

from networks.residual_concat import ConcatBlock, ResidualConcatGenerator


def test_every_layer_has_its_shape_at_256():
    network = full_size(ResidualConcatGenerator)
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
    assert parameters(full_size(ResidualConcatGenerator)) == down + blocks + up + 7 * 7 * 64 + 1 + norms == 2_533_313
    nearest = full_size(ResidualConcatGenerator, upsampling="nearest")
    assert parameters(nearest) == 2_533_313 - up + 3 * 3 * (512 * 128 + 128 * 64)


def test_a_block_keeps_its_input_and_adds_to_the_channels():
    torch.manual_seed(0)
    block = ConcatBlock(3, growth=5)
    features = random_image(2, 3, 6, 4)
    out = block(features)
    assert out.shape == (2, 8, 6, 4)
    assert torch.equal(out[:, :3], features)
    assert torch.equal(out[:, 3:], block.layers(features))
    assert [type(layer) for layer in block.layers] == [nn.Conv2d, nn.GroupNorm, nn.LeakyReLU, nn.Conv2d]
