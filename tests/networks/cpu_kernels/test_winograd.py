"""Minimal filtering equals the convolution that it replaces."""

import pytest
import torch
from network_probes import assert_same_function
from torch.nn.functional import conv2d

from networks.cpu_kernels.winograd import convolve, is_faster


def random_tensor(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


SIZES = (3, 3), (3, 9), (4, 4), (4, 9), (6, 6), (10, 13), (17, 8)


@pytest.mark.parametrize(
    ("size", "taps"), [(size, taps) for taps in (2, 3, 4) for size in SIZES if min(size) >= taps], ids=str
)
def test_values_and_gradients_are_the_convolutions(size, taps):
    assert_same_function(convolve, conv2d, random_tensor(3, 5, *size), random_tensor(7, 5, taps, taps, seed=1))


def test_the_input_need_not_be_contiguous():
    image = random_tensor(2, 6, 11, 9)
    for other in (image.transpose(2, 3), image[:, ::2], image.to(memory_format=torch.channels_last), image[..., 1:]):
        assert_same_function(convolve, conv2d, other, random_tensor(4, other.shape[1], 3, 3, seed=1))


@pytest.mark.parametrize("taps, bound", [(3, 3e-6), (4, 5e-6)])
def test_in_float32_it_is_exact_to_a_few_roundings(taps, bound):
    image, weight = (
        random_tensor(1, 128, 18, 18, dtype=torch.float32),
        random_tensor(128, 128, taps, taps, dtype=torch.float32, seed=1),
    )
    assert_same_function(convolve, conv2d, image, weight, bound=20 * bound)
    error = convolve(image, weight).double() - conv2d(image.double(), weight.double())
    assert error.square().mean().sqrt() < bound * conv2d(image, weight).std()


@pytest.mark.parametrize(
    "size, kernels, expected",
    [
        (34, (128, 64, 3, 3), True),
        (66, (256, 256, 3, 3), True),
        (33, (128, 64, 3, 3), False),  # too few tiles
        (34, (64, 64, 3, 3), False),
        (66, (512, 32, 3, 3), False),
        (66, (256, 256, 5, 5), False),
        (66, (256, 256, 1, 3), False),
        (34, (512, 256, 4, 4), True),
        (34, (128, 64, 4, 4), True),
        (33, (512, 256, 4, 4), False),  # too few tiles
        (34, (64, 64, 4, 4), False),
    ],
)
def test_it_pays_for_small_kernels_between_many_channels_on_many_pixels_alone(size, kernels, expected):
    weight = torch.empty(kernels)
    assert is_faster(torch.empty(1, kernels[1], size, size), weight) is expected
    assert is_faster(torch.empty(1, kernels[1], size - 2, size - 2), weight, padding=1) is expected
