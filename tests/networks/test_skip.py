import pytest
import torch
from network_probes import full_size, parameters, random_image, shapes_of
from torch import nn
from torch.nn.functional import conv2d, group_norm, interpolate, pad

from networks.cpu_kernels import accelerate
from networks.skip import ScaledResidualBlock, SkipGenerator


def test_every_layer_has_its_shape_at_112():
    network = full_size(SkipGenerator)
    image = torch.zeros(1, 1, 112, 112, device="meta")
    assert shapes_of(network.down, lambda: network(image)) == [(16, 112, 112), (32, 56, 56), (64, 28, 28)]
    assert shapes_of(network.blocks, lambda: network(image)) == [(64, 28, 28)] * 4
    shapes = shapes_of([*network.up, network.last], lambda: network(image))
    assert shapes == [(32, 56, 56), (16, 112, 112), (1, 112, 112)]


def test_channels_stop_growing_at_four_times_the_width():
    network = full_size(SkipGenerator, width=3, downs=4)
    image = torch.zeros(1, 1, 32, 32, device="meta")
    assert [shape[0] for shape in shapes_of(network.down, lambda: network(image))] == [3, 6, 12, 12, 12]


def test_the_parameters_are_those_counted_by_hand():
    weights = 5 * 5 * 16 + 4 * 4 * (16 * 32 + 32 * 64) + 4 * 2 * 3 * 3 * 64 * 64 + 3 * 3 * (64 * 32 + 32 * 16)
    last, scales, layers = 5 * 5 * 16 + 1, 4, 16 + 32 + 64 + 4 * 2 * 64 + 32 + 16
    assert parameters(full_size(SkipGenerator)) == weights + last + scales + 2 * layers == 361_061
    assert parameters(full_size(SkipGenerator, norm="none")) == weights + last + scales + layers
    assert ScaledResidualBlock(3, "instance").scale.item() == pytest.approx(0.2)


def written_out(network, image, norm):
    """The generator by torch's functions alone."""

    def convolved(features, layer, stride=1):
        side = (layer.weight.shape[-1] - 1) // 2
        return conv2d(pad(features, (side,) * 4, mode="reflect"), layer.weight, layer.bias, stride)

    def normed(features, layer):
        return group_norm(features, features.shape[1], layer.weight, layer.bias) if norm == "instance" else features

    def layer_of(features, layer, stride=1):
        return normed(convolved(features, layer[0], stride), layer[1]).relu()

    stem, first, second = network.down
    full = layer_of(image, stem)
    half = layer_of(full, first, 2)
    features = layer_of(half, second, 2)
    for block in network.blocks:
        inner = convolved(layer_of(features, block.layers[0]), block.layers[1])
        features = features + block.scale * normed(inner, block.layers[-1])
    for (convolution, *others), skip in zip(network.up, (half, full), strict=True):
        doubled = interpolate(features, scale_factor=2, mode="nearest")
        features = layer_of(doubled, [convolution[1], *others]) + skip
    return convolved(features, network.last).tanh()


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_it_computes_what_it_says(norm):
    torch.manual_seed(0)
    network = SkipGenerator(2, 4, norm=norm).double()
    for weight in network.parameters():
        nn.init.normal_(weight, 0.1, 0.3)
    image = random_image(2, 1, 16, 24, dtype=torch.float64)
    expected = written_out(network, image, norm)
    torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(accelerate(network)(image), expected, rtol=0, atol=1e-10)


def test_a_network_without_norms_has_none_and_starts_away_from_saturation():
    torch.manual_seed(0)
    network = SkipGenerator(norm="none")
    assert not any(isinstance(layer, nn.GroupNorm) for layer in network.modules())
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            deviation = 0.02 if name == "last" else (2 / layer.weight[0].numel()) ** 0.5
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.15), name
            assert not layer.bias.any(), name
    with torch.no_grad():
        assert 0.05 < network(random_image(1, 1, 112, 112)).abs().max() < 0.95
