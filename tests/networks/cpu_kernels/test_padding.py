"""Padding by mirror image, and its gradient."""

import pytest
import torch
from network_probes import assert_same_function
from torch.autograd import gradgradcheck
from torch.nn.functional import pad

from networks.cpu_kernels.padding import reflect, repeat_border


@pytest.mark.parametrize("width, size", [(1, (2, 2)), (1, (5, 3)), (3, (4, 4)), (3, (7, 9))], ids=str)
def test_reflection_and_its_gradient_are_torchs(width, size):
    torch.manual_seed(0)
    image = torch.randn(3, 2, *size, dtype=torch.float64)
    assert_same_function(lambda x: reflect(x, width), lambda x: pad(x, (width,) * 4, mode="reflect"), image)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 5)], ids=str)
def test_the_repeated_border_and_its_gradient_are_torchs(size):
    torch.manual_seed(0)
    image = torch.randn(3, 2, *size, dtype=torch.float64)
    assert_same_function(repeat_border, lambda x: pad(x, (1, 1, 1, 1), mode="replicate"), image)


def test_no_padding_is_none():
    image = torch.zeros(1, 1, 2, 2)
    assert reflect(image, 0) is image


def test_gradients_of_gradients_are_right():
    """A gradient penalty on a discriminator that pads by reflection takes them."""
    image = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda x: reflect(x, 2).sin(), image)
