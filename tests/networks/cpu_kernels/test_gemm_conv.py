"""When halving and doubling by matrix products pays."""

import pytest
import torch

from networks.cpu_kernels.gemm_conv import is_faster


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
