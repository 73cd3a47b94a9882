import pytest
import torch
from network_probes import random_image
from torch import nn

from networks.blocks import (
    ResidualBlock,
    instance_norm,
    intermediate_features,
    normalise_spectrally,
    reflect_conv,
    require_size,
    upsample,
)


def test_instance_norm_is_pytorchs():
    features = torch.rand(3, 6, 5, 4) * 7
    expected = nn.functional.instance_norm(features)
    torch.testing.assert_close(instance_norm(6)(features), expected, rtol=1e-5, atol=1e-5)


def test_instance_norm_of_one_pixel_is_its_offset():
    norm = instance_norm(4)
    nn.init.constant_(norm.bias, 0.5)
    torch.testing.assert_close(norm(torch.rand(2, 4, 1, 1)), torch.full((2, 4, 1, 1), 0.5), rtol=0, atol=1e-4)


def test_a_reflected_border_continues_the_image():
    average = reflect_conv(1, 1, 3)
    nn.init.constant_(average.weight, 1 / 9)
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    expected = [2 / 3, 1, 2, 7 / 3]  # (1 + 0 + 1) / 3 and (2 + 3 + 2) / 3 at the borders
    torch.testing.assert_close(average(ramp), torch.tensor(expected).expand(1, 1, 4, 4))


def test_only_repeating_pixels_draws_no_checkerboard():
    flat = torch.ones(1, 1, 6, 6)
    inside = {}
    for upsampling in ("transposed", "nearest"):
        layer = upsample(1, 1, upsampling, kernel=3)
        nn.init.constant_(next(layer.parameters()), 0.25)
        inside[upsampling] = layer(flat)[0, 0, 2:-2, 2:-2].unique().tolist()
    assert inside == {"transposed": [0.25, 0.5, 1.0], "nearest": [9 * 0.25]}


def test_a_residual_block_adds_to_its_input():
    torch.manual_seed(0)
    block = ResidualBlock(3)
    features = random_image(2, 3, 6, 5)
    torch.testing.assert_close(block(features) - features, block.layers(features))
    nn.init.zeros_(block.layers[-1].weight)
    assert torch.equal(block(features), features)


@pytest.mark.parametrize(
    ("shape", "stride", "least", "message"),
    [
        ((12, 16), 8, 1, "slices of 12×16 pixels do not fit a net; pad both sides to multiples of 8$"),
        ((16, 4), 8, 1, "slices of 16×4 pixels .* multiples of 8$"),
        ((8, 16), 8, 16, "slices of 8×16 pixels .* multiples of 8, at least 16$"),
        ((64, 63), 1, 64, "slices of 64×63 pixels do not fit a net; pad both sides to at least 64$"),
    ],
)
def test_a_size_that_does_not_fit_is_an_error_that_says_which_do(shape, stride, least, message):
    with pytest.raises(ValueError, match=message):
        require_size(torch.zeros(1, 1, *shape), "a net", stride, least)


def test_layers_beyond_the_last_tap_do_not_run():
    ran = []

    class Add(nn.Module):
        def forward(self, features):
            ran.append(self)
            return features + 1

    layers = [Add() for _ in range(4)]
    assert [outputs.item() for outputs in intermediate_features(torch.zeros(1), layers, (0, 2))] == [0, 1, 3]
    assert ran == layers[:3]


def test_spectral_norm_divides_by_the_largest_singular_value():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Sequential(nn.Conv2d(8, 2, 3)), nn.GroupNorm(1, 2))
    before = [network[0].weight.detach().clone(), network[1][0].weight.detach().clone()]
    assert normalise_spectrally(network) is network
    for _ in range(100):  # power iterations
        network(torch.zeros(1, 3, 8, 8))
    network.eval()
    for convolution, weight in zip([network[0], network[1][0]], before, strict=True):
        largest = torch.linalg.matrix_norm(weight.flatten(1), 2)
        torch.testing.assert_close(convolution.weight, weight / largest, rtol=1e-3, atol=1e-5)
