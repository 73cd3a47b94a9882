"""Halving and doubling by 4×4 kernels at stride 2 where pixels are few: one matrix product for all images of a batch.

With few pixels the time goes into reading the weights. With the columns c(x) of an image, its 4×4 patches at stride 2
(`unfold`; cᵀ, `fold`, adds them up), and a weight w as a matrix, halving is w c(x), doubling its transpose cᵀ(wᵀ x),
and the gradient of w in both is the coarse image times the columns of the fine one.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import fold, unfold

from networks.cpu_kernels.autograd_guard import once_differentiable

KERNEL = {"kernel_size": 4, "stride": 2, "padding": 1}
FEW_COLUMNS = 12  # with fewer columns the transposed product is up to ten times faster (measured)
SHARE, LEAST_WEIGHTS = 16, 2**20  # measured: faster from so many weights and 16 channels per pixel on


def is_faster(pixels: int, weight: Tensor) -> bool:
    """Whether `conv_stride2` and `transposed_conv` were measured to be faster than torch's convolutions.

    `pixels` is N H W of the coarse side, whose channels are K of the weight (K, C, r, r).
    """
    is_large = weight.shape[2:] == (4, 4) and weight.numel() >= LEAST_WEIGHTS
    is_contiguous = weight.is_contiguous()  # another layout would be copied first
    return is_large and is_contiguous and pixels > 0 and pixels * SHARE <= len(weight)


def conv_stride2(image: Tensor, weight: Tensor) -> Tensor:
    """Correlate (N, C, 2H, 2W) with (K, C, 4, 4) at stride 2, padding 1: to (N, K, H, W); differentiable once."""
    return _Halved.apply(image, weight)


def transposed_conv(image: Tensor, weight: Tensor) -> Tensor:
    """Convolve (N, K, H, W) with (K, C, 4, 4), transposed, at stride 2, padding 1: to (N, C, 2H, 2W); differentiable
    once.
    """
    return _Doubled.apply(image, weight)


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        columns = _columns(image)
        ctx.save_for_backward(columns, weight)
        ctx.shape = image.shape
        count, _, height, width = image.shape
        return _to_images(_product(weight.flatten(1), columns), (count, -1, height // 2, width // 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        columns, weight = ctx.saved_tensors
        coarse = _to_matrix(gradient)
        image_gradient = (
            _fold_columns(_product(weight.flatten(1).T, coarse), ctx.shape) if ctx.needs_input_grad[0] else None
        )
        return image_gradient, _weight_gradient(coarse, columns, weight) if ctx.needs_input_grad[1] else None


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        coarse = _to_matrix(image)
        ctx.save_for_backward(coarse, weight)
        ctx.shape = image.shape
        count, _, height, width = image.shape
        return _fold_columns(_product(weight.flatten(1).T, coarse), (count, weight.shape[1], 2 * height, 2 * width))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        coarse, weight = ctx.saved_tensors
        columns = _columns(gradient)
        image_gradient = (
            _to_images(_product(weight.flatten(1), columns), ctx.shape) if ctx.needs_input_grad[0] else None
        )
        return image_gradient, _weight_gradient(coarse, columns, weight) if ctx.needs_input_grad[1] else None


def _product(matrix: Tensor, columns: Tensor) -> Tensor:
    return matrix @ columns if columns.shape[1] >= FEW_COLUMNS else (columns.T @ matrix.T).T


def _weight_gradient(coarse: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
    """Return the weight's gradient as a tensor of its own, to which autograd can add the next one in place."""
    gradient = torch.empty_like(weight, memory_format=torch.contiguous_format)
    torch.mm(coarse, columns.T, out=gradient.flatten(1))
    return gradient


def _to_matrix(image: Tensor) -> Tensor:
    """(N, C, H, W) to (C, N H W)."""
    return image.transpose(0, 1).flatten(1)


def _to_images(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(C, N H W) to (N, C, H, W)."""
    count, _, height, width = shape
    return matrix.view(-1, count, height, width).transpose(0, 1).clone(memory_format=torch.contiguous_format)


def _columns(image: Tensor) -> Tensor:
    """(N, C, 2H, 2W) to (16 C, N H W)."""
    return unfold(image, **KERNEL).transpose(0, 1).flatten(1)


def _fold_columns(columns: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(16 C, N H W) to (N, C, 2H, 2W), the transpose of `_columns`."""
    image_columns = columns.reshape(len(columns), shape[0], -1).transpose(0, 1)
    return fold(image_columns, shape[2:], **KERNEL)
