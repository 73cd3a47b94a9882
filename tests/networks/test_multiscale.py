from contextlib import nullcontext

import pytest
import torch
from network_probes import full_size, parameters, random_image, sees_a_square_of
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm

from networks.blocks import normalise_spectrally
from networks.cpu_kernels import accelerate, twice_differentiable
from networks.multiscale import MultiScaleDiscriminator


def test_the_parameters_are_those_counted_by_hand():
    convolutions = 4 * 4 * (1 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 128 + 256 + 512
    network, conditional = full_size(MultiScaleDiscriminator), full_size(MultiScaleDiscriminator, in_channels=2)
    assert parameters(network) == 3 * (convolutions + 512 + 1)
    assert parameters(conditional) - parameters(network) == 3 * 4 * 4 * 64


# Outwards from a logit, each 4×4 convolution turns r into 2r + 2: 1, 4, 10, 22, 46; each halving of the image, by the
# average of 3×3 pixels, turns that into 2r + 1.
@pytest.mark.parametrize(
    ("layers", "scale", "side"), [(4, 0, 46), (4, 1, 93), (4, 2, 187), (2, 0, 10), (2, 1, 21), (2, 2, 43), (3, 0, 22)]
)
def test_a_logit_depends_on_exactly_its_receptive_field(layers, scale, side):
    network = MultiScaleDiscriminator(layers=layers, width=1)
    assert sees_a_square_of(side, network, 256, lambda image: network(image)[scale])


def test_each_scale_judges_the_averaged_image_with_weights_of_its_own():
    torch.manual_seed(0)
    network = MultiScaleDiscriminator(scales=3, layers=2, width=4)
    image = random_image(2, 1, 32, 24)
    once = nn.functional.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
    twice = nn.functional.avg_pool2d(once, 3, 2, 1, count_include_pad=False)
    for logits, scale, images in zip(network(image), network.scales, (image, once, twice), strict=True):
        assert torch.equal(logits, scale(images))
    assert not torch.equal(network.scales[0][0].weight, network.scales[1][0].weight)


def test_it_has_no_norm_and_is_linear_at_the_end():
    network = MultiScaleDiscriminator(width=2)
    assert all(isinstance(module, nn.Conv2d | nn.LeakyReLU) for module in network.scales[0])
    assert {module.negative_slope for module in network.modules() if isinstance(module, nn.LeakyReLU)} == {0.2}
    nn.init.constant_(network.scales[2][-1].bias, -7.0)
    assert network(torch.zeros(1, 1, 64, 64))[2].max() < -6.5


def test_a_small_image_is_an_error_and_the_least_is_enough():
    network = MultiScaleDiscriminator(width=1)
    assert network.minimum_size == 64
    assert [tuple(logits.shape[2:]) for logits in network(torch.zeros(1, 1, 64, 65))] == [(4, 4), (2, 2), (1, 1)]
    with pytest.raises(ValueError, match=r"slices of 64×63 pixels do not fit a discriminator of 3 scales; .* least 64"):
        network(torch.zeros(1, 1, 64, 63))


@pytest.mark.parametrize("gpu", [False, True])
def test_a_forward_pass_makes_one_power_iteration_a_convolution(gpu, monkeypatch):
    network = normalise_spectrally(accelerate(MultiScaleDiscriminator(scales=2, layers=2, width=4))).train()
    calls, iterate = [], _SpectralNorm._power_method
    monkeypatch.setattr(
        _SpectralNorm, "_power_method", lambda self, *arguments: calls.append(self) or iterate(self, *arguments)
    )
    with twice_differentiable() if gpu else nullcontext():
        network(torch.rand(1, 1, 32, 32))
    assert len(calls) == len(set(calls)) == 6
