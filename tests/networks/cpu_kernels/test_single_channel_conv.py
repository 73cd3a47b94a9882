"""Convolutions from and to one channel equal the library's."""

from functools import partial

import pytest
import torch
from network_probes import assert_same_function
from torch.nn.functional import conv2d, conv_transpose2d

from networks.cpu_kernels.single_channel_conv import (
    conv_stride2_from_one_channel,
    convolve_from_one_channel,
    convolve_to_one_channel,
    transposed_conv_to_one_channel,
)

DTYPES = pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)


@DTYPES
@pytest.mark.parametrize("size", [(7, 7), (9, 13), (16, 8)], ids=str)
def test_to_and_from_one_channel(size, dtype, bound):
    torch.manual_seed(0)
    image, weight = torch.randn(3, 5, *size, dtype=dtype), torch.randn(1, 5, 7, 7, dtype=dtype)
    assert_same_function(convolve_to_one_channel, conv2d, image, weight, bound=bound)
    assert_same_function(convolve_from_one_channel, conv2d, image[:, :1], weight.transpose(0, 1), bound=bound)


@DTYPES
@pytest.mark.parametrize("size, padding", [((8, 8), 1), ((2, 6), 1), ((7, 12), 0), ((9, 5), 2)], ids=str)
def test_halving_from_one_channel(size, padding, dtype, bound):
    torch.manual_seed(0)
    image, weight = torch.randn(3, 1, *size, dtype=dtype), torch.randn(5, 1, 4, 4, dtype=dtype)
    ours, plain = partial(conv_stride2_from_one_channel, padding=padding), partial(conv2d, stride=2, padding=padding)
    assert_same_function(ours, plain, image, weight, bound=bound)


@DTYPES
@pytest.mark.parametrize("size", [(1, 1), (4, 7), (8, 2)], ids=str)
def test_doubling_to_one_channel(size, dtype, bound):
    torch.manual_seed(0)
    image, weight = torch.randn(3, 5, *size, dtype=dtype), torch.randn(5, 1, 4, 4, dtype=dtype)
    plain = partial(conv_transpose2d, stride=2, padding=1)
    assert_same_function(transposed_conv_to_one_channel, plain, image, weight, bound=bound)
    channels_last = image.to(memory_format=torch.channels_last)
    assert_same_function(transposed_conv_to_one_channel, plain, channels_last, weight, bound=bound)


def test_kernels_need_not_be_square_nor_inputs_contiguous():
    torch.manual_seed(0)
    image = torch.randn(2, 8, 9, 4, dtype=torch.float64).transpose(2, 3)
    assert_same_function(convolve_to_one_channel, conv2d, image[:, ::2], torch.randn(1, 4, 2, 3, dtype=torch.float64))
    assert_same_function(convolve_from_one_channel, conv2d, image[:, :1], torch.randn(3, 1, 3, 2, dtype=torch.float64))
