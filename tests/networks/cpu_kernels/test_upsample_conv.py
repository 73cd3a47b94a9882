"""Convolving a doubled image without doubling it."""

import pytest
import torch
from network_probes import assert_same_function
from torch.nn.functional import conv2d, interpolate, pad

from networks.cpu_kernels import winograd
from networks.cpu_kernels.upsample_conv import upsample_and_convolve


def plainly(image, weight):
    reach = weight.shape[-1] // 2
    return conv2d(pad(interpolate(image, scale_factor=2.0), (reach,) * 4, mode="reflect"), weight)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(2, 2), (2, 3), (5, 4), (9, 6)], ids=str)
def test_it_is_the_convolution_of_the_doubled_image(kernel, size):
    torch.manual_seed(0)
    image = torch.randn(3, 4, *size, dtype=torch.float64)
    assert_same_function(upsample_and_convolve, plainly, image, torch.randn(5, 4, kernel, kernel, dtype=torch.float64))


@pytest.mark.parametrize("kernel", [3, 5])
def test_in_float32_to_rounding_and_of_a_view(kernel):
    torch.manual_seed(0)
    image = torch.randn(2, 16, 8, 7).transpose(2, 3)[:, ::2]
    assert_same_function(upsample_and_convolve, plainly, image, torch.randn(3, 8, kernel, kernel), bound=1e-5)


def test_many_channels_go_through_minimal_filtering(monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_TILES", {3: 0})
    torch.manual_seed(0)
    image = torch.randn(1, 64, 5, 3, dtype=torch.float64)
    weight = torch.randn(32, 64, 5, 5, dtype=torch.float64)
    assert winograd.is_faster(image, weight[..., :3, :3].repeat(4, 1, 1, 1))
    assert_same_function(upsample_and_convolve, plainly, image, weight)
