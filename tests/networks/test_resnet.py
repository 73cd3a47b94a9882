import pytest
import torch
from network_probes import full_size, parameters, shapes_of
from torch import nn

from networks.resnet import ResNetGenerator


def test_every_layer_has_the_papers_shape_at_256():
    network = full_size(ResNetGenerator)
    image = torch.zeros(1, 1, 256, 256, device="meta")
    assert shapes_of(network.encoder, lambda: network(image)) == [
        (64, 256, 256), (128, 128, 128), *[(256, 64, 64)] * 10,
    ]  # fmt: skip
    assert shapes_of(network.decoder, lambda: network(image)) == [(128, 128, 128), (64, 256, 256), (1, 256, 256)]


@pytest.mark.parametrize(("blocks", "published"), [(9, 11_378_179), (6, 7_837_699)])
def test_the_parameters_are_those_counted_by_hand(blocks, published):
    scaling = 3 * 3 * (64 * 128 + 128 * 256)
    residual = blocks * 2 * 3 * 3 * 256 * 256
    outer = 7 * 7 * 64
    conv_norm_act = 64 + 128 + 256 + blocks * 2 * 256 + 128 + 64
    network = full_size(ResNetGenerator, blocks=blocks)
    assert parameters(network) == 2 * scaling + residual + 2 * outer + 1 + 2 * conv_norm_act
    # The public code has three channels at either end, biases, and norms without scale and offset.
    assert 2 * scaling + residual + 3 * 2 * outer + 3 + conv_norm_act == published


def test_nearest_has_as_many_parameters():
    assert parameters(full_size(ResNetGenerator, upsampling="nearest")) == parameters(full_size(ResNetGenerator))
    kinds = [type(module) for module in full_size(ResNetGenerator, upsampling="nearest").modules()]
    assert kinds.count(nn.Upsample) == 2
    assert nn.ConvTranspose2d not in kinds
    assert [type(module) for module in full_size(ResNetGenerator).modules()].count(nn.ConvTranspose2d) == 2


def test_reflection_pads_where_the_paper_says():
    network = full_size(ResNetGenerator)
    modes = [module.padding_mode for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert modes == ["reflect", "zeros", "zeros", *["reflect"] * 18, "reflect"]
