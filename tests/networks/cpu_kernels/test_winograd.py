"""Minimal filtering equals the convolution that it replaces."""

import pytest
import torch
from torch.nn.functional import conv2d

from networks.cpu_kernels.winograd import convolve, is_faster


def value_and_gradients(function, *tensors):
    """What a function makes of tensors, and the gradients by each of its sum of squares."""
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    value = function(*tensors)
    return value.detach(), *torch.autograd.grad(value.square().sum(), tensors)


@pytest.mark.parametrize("taps, bound", [(3, 3e-6), (4, 5e-6)])
def test_in_float32_it_is_exact_to_a_few_roundings(taps, bound):
    torch.manual_seed(0)
    tensors = torch.randn(1, 128, 18, 18), torch.randn(128, 128, taps, taps)
    results = value_and_gradients(convolve, *tensors), value_and_gradients(conv2d, *(t.double() for t in tensors))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=20 * bound * theirs.std().item())
    error = results[0][0].double() - results[1][0]
    assert error.square().mean().sqrt() < bound * results[1][0].std()


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
