"""Halving and doubling by matrix products equal the library's strided convolutions."""

from functools import partial

import pytest
import torch
from network_probes import assert_same_function
from torch.nn.functional import conv2d, conv_transpose2d

from networks.cpu_kernels.gemm_conv import FEW_COLUMNS, conv_stride2, is_faster, transposed_conv

plain_half, plain_double = (partial(plain, stride=2, padding=1) for plain in (conv2d, conv_transpose2d))


def random_tensor(*shape, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64).to(dtype)


SIZES = [
    (1, 1),
    (2, 2),
    (4, 2),
    (3, 5),
]  # of the coarse side
DTYPES = pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)


@DTYPES
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("height, width", SIZES)
def test_values_and_gradients_are_the_librarys(height, width, count, dtype, bound):
    assert 1 < FEW_COLUMNS <= 3 * 5
    weight = random_tensor(7, 5, 4, 4, dtype=dtype)
    assert_same_function(
        conv_stride2, plain_half, random_tensor(count, 5, 2 * height, 2 * width, dtype=dtype), weight, bound=bound
    )
    assert_same_function(
        transposed_conv, plain_double, random_tensor(count, 7, height, width, dtype=dtype), weight, bound=bound
    )


def test_weights_may_have_another_layout():
    weight = random_tensor(7, 5, 4, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    assert_same_function(conv_stride2, plain_half, random_tensor(2, 5, 4, 6, dtype=torch.float64), weight)
    assert_same_function(transposed_conv, plain_double, random_tensor(2, 7, 2, 3, dtype=torch.float64), weight)


def test_inputs_need_not_be_contiguous_and_results_may_be_changed_in_place():
    weight = random_tensor(7, 5, 4, 4, dtype=torch.float64)
    image = random_tensor(2, 8, 4, 10, dtype=torch.float64)[:, :, :, ::2].transpose(1, 3)
    assert not image.is_contiguous()
    assert_same_function(conv_stride2, plain_half, image[:1], weight)
    for convolve, shape in ((conv_stride2, (1, 5, 4, 4)), (transposed_conv, (1, 7, 2, 2))):
        image = random_tensor(*shape, dtype=torch.float64).requires_grad_()
        torch.nn.functional.relu(convolve(image, weight), inplace=True).sum().backward()
        assert image.grad.any()


@pytest.mark.parametrize(
    "pixels, shape, expected",
    [
        (0, (512, 512, 4, 4), False),  # an empty batch
        (32, (512, 512, 4, 4), True),
        (33, (512, 512, 4, 4), False),
        (64, (1024, 512, 4, 4), True),
        (1, (256, 255, 4, 4), False),  # too few weights
        (1, (1024, 1024, 3, 3), False),
    ],
)
def test_it_pays_for_few_pixels_and_many_weights(pixels, shape, expected):
    weight = torch.empty(shape, device="meta")
    assert is_faster(pixels, weight) is expected
    assert not is_faster(pixels, weight.to(memory_format=torch.channels_last))
