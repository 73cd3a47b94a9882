"""Convolutions from or to a single channel, where libraries compute a whole vector register of channels.

To one channel they take the time of sixteen. A two-dimensional kernel is a sum of its rows, so that

    y[i, j] = Σ_p z_p[i + p, j],   z_p[i, j] = Σ_q Σ_c w[c, p, q] x[c, i, j + q]:

one convolution by a single row to as many channels as the kernel has rows, which are then added, each a row further
down. The gradients of such a layer are convolutions *from* one channel, which are fast as they are, and those of a
layer from one channel are these.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import conv2d, pad
from torch.nn.grad import conv2d_weight


def convolve_to_one(image: Tensor, weight: Tensor) -> Tensor:
    """Correlate (N, C, H, W) with (1, C, r, s), unpadded: to (N, 1, H − r + 1, W − s + 1), differentiable once."""
    return _ToOne.apply(image, weight)


def convolve_from_one(image: Tensor, weight: Tensor) -> Tensor:
    """Correlate (N, 1, H, W) with (K, 1, r, s), unpadded: to (N, K, H − r + 1, W − s + 1), differentiable once."""
    return _FromOne.apply(image, weight)


class _ToOne(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return _by_rows(image, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        image, weight = ctx.saved_tensors
        around, turned = _around(gradient, weight), _turned(weight)
        to_image = conv2d(around, turned) if ctx.needs_input_grad[0] else None
        to_weight = _turned(conv2d_weight(around, turned.shape, image)) if ctx.needs_input_grad[1] else None
        return to_image, to_weight


class _FromOne(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return conv2d(image, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        image, weight = ctx.saved_tensors
        to_image = _by_rows(_around(gradient, weight), _turned(weight)) if ctx.needs_input_grad[0] else None
        to_weight = conv2d_weight(image, weight.shape, gradient) if ctx.needs_input_grad[1] else None
        return to_image, to_weight


def _by_rows(image: Tensor, weight: Tensor) -> Tensor:
    """The convolution to one channel as the sum over the kernel's rows."""
    height = image.shape[2] - weight.shape[2] + 1
    rows = conv2d(image, weight[0].transpose(0, 1)[:, :, None])  # (r, C, 1, s) to (N, r, H, W − s + 1)
    result = rows[:, :1, :height].clone()
    for row in range(1, rows.shape[1]):
        result += rows[:, row : row + 1, row : row + height]
    return result


def _around(gradient: Tensor, weight: Tensor) -> Tensor:
    """Surround a gradient with as many zeros as the kernel reaches."""
    high, wide = (side - 1 for side in weight.shape[2:])
    return pad(gradient, (wide, wide, high, high))


def _turned(weight: Tensor) -> Tensor:
    """Turn a kernel by 180° and swap its channels, as the gradient's convolution has it."""
    return weight.flip(2, 3).transpose(0, 1)
