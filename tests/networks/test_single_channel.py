"""Convolutions from and to one channel equal the library's."""

import pytest
import torch
from network_probes import assert_same_function
from torch.nn.functional import conv2d

from networks.single_channel import convolve_from_one, convolve_to_one

SIZES = [(7, 7), (9, 13), (16, 8)]


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_to_one_channel(size, dtype, bound):
    torch.manual_seed(0)
    image, weight = torch.randn(3, 5, *size, dtype=dtype), torch.randn(1, 5, 7, 7, dtype=dtype)
    assert_same_function(convolve_to_one, conv2d, image, weight, bound=bound)


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_from_one_channel(size, dtype, bound):
    torch.manual_seed(0)
    image, weight = torch.randn(3, 1, *size, dtype=dtype), torch.randn(5, 1, 7, 7, dtype=dtype)
    assert_same_function(convolve_from_one, conv2d, image, weight, bound=bound)


def test_kernels_need_not_be_square_nor_inputs_contiguous():
    torch.manual_seed(0)
    image = torch.randn(2, 8, 9, 4, dtype=torch.float64).transpose(2, 3)
    assert_same_function(convolve_to_one, conv2d, image[:, ::2], torch.randn(1, 4, 2, 3, dtype=torch.float64))
    assert_same_function(convolve_from_one, conv2d, image[:, :1], torch.randn(3, 1, 3, 2, dtype=torch.float64))
