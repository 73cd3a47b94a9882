import pytest
import torch
from network_probes import parameters, sees_a_square_of, shapes_of
from torch import nn

from networks.resnet import ResNetGenerator


def full_size(**options):
    with torch.device("meta"):
        return ResNetGenerator(**options)


def test_every_layer_has_the_papers_shape_at_256():
    network = full_size()
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
    assert parameters(full_size(blocks=blocks)) == 2 * scaling + residual + 2 * outer + 1 + 2 * conv_norm_act
    # The public code has three channels at either end, biases, and norms without scale and offset.
    assert 2 * scaling + residual + 3 * 2 * outer + 3 + conv_norm_act == published


def test_nearest_has_as_many_parameters():
    assert parameters(full_size(upsampling="nearest")) == parameters(full_size())
    kinds = [type(module) for module in full_size(upsampling="nearest").modules()]
    assert kinds.count(nn.Upsample) == 2
    assert nn.ConvTranspose2d not in kinds
    assert [type(module) for module in full_size().modules()].count(nn.ConvTranspose2d) == 2


def test_reflection_pads_where_the_paper_says():
    network = full_size()
    modes = [module.padding_mode for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert modes == ["reflect", "zeros", "zeros", *["reflect"] * 18, "reflect"]


@pytest.mark.parametrize(
    ("blocks", "channels"), [(9, [1, 128, 256, 256, 256]), (5, [1, 128, 256, 256, 256]), (4, [1, 128, 256, 256])]
)
def test_features_are_those_of_contrastive_translation(blocks, channels):
    network = full_size(blocks=blocks)
    features = network.features(torch.zeros(2, 1, 64, 32, device="meta"))
    assert network.feature_channels == [layer.shape[1] for layer in features] == channels
    assert [tuple(layer.shape[2:]) for layer in features] == [(64, 32), (32, 16), *[(16, 8)] * (len(channels) - 2)]


# A residual block adds 2 · 2 pixels of its level, a 3×3 convolution of stride 2 makes 2r + 1 of r, the 7×7 adds 6:
# 1 → 3 → 9 after the first halving; 1 → 3 → 7 → 13 after the second; 5 → 11 → 23 → 29 after a block; 21 → 43 → 87 → 93.
@pytest.mark.parametrize(("feature", "side"), [(1, 9), (2, 13), (3, 29), (4, 93)])
def test_a_feature_depends_on_exactly_its_receptive_field(feature, side):
    network = ResNetGenerator(blocks=5, width=2)
    assert sees_a_square_of(side, network, 128, lambda image: network.features(image)[feature])
