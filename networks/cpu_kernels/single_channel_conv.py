"""Convolutions from or to a single channel.

Libraries compute a whole vector register of channels, so that one channel takes the time of sixteen. At stride 1, a
two-dimensional kernel is a sum of its rows:

    y[i, j] = Σ_p z_p[i + p, j],   z_p[i, j] = Σ_q Σ_c w[c, p, q] x[c, i, j + q].

That is one convolution by a single row to as many channels as the kernel has rows, which are then added, each a row
further down. The gradients of such a layer are convolutions *from* one channel, which are fast in torch; the gradients
of a layer from one channel are convolutions to one channel. At stride 2, the transposed convolution to one channel,
which is also the gradient of a strided convolution from one, is a matrix product Σ_c w[c, p, q] x[c, i, j] for each tap
(p, q), whose planes are added where the tap puts them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, fold, pad
from torch.nn.grad import conv2d_weight

from networks.cpu_kernels.autograd_guard import once_differentiable


def convolve_to_one_channel(image: Tensor, weight: Tensor) -> Tensor:
    """Correlate (N, C, H, W) with (1, C, r, s), unpadded: to (N, 1, H − r + 1, W − s + 1), differentiable once."""
    return _ToOne.apply(image, weight)


def convolve_from_one_channel(image: Tensor, weight: Tensor) -> Tensor:
    """Correlate (N, 1, H, W) with (K, 1, r, s), unpadded: to (N, K, H − r + 1, W − s + 1), differentiable once."""
    return _FromOne.apply(image, weight, 1, 0)


def conv_stride2_from_one_channel(image: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Correlate (N, 1, H, W) with (K, 1, r, r) at stride 2, padded with zeros; differentiable once.

    The result is (N, K, h, w), where h is (H + 2 padding − r) / 2 + 1, rounded down.
    """
    return _FromOne.apply(image, weight, 2, padding)


def transposed_conv_to_one_channel(image: Tensor, weight: Tensor) -> Tensor:
    """Convolve (N, C, H, W) with (C, 1, 4, 4), transposed, at stride 2, padding 1: to (N, 1, 2H, 2W); differentiable
    once.
    """
    return _DoubledToOne.apply(image, weight)


class _ToOne(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return _sum_over_rows(image, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        image, weight = ctx.saved_tensors
        padded, flipped = _zero_padded(gradient, weight), _flipped_kernel(weight)
        image_gradient = conv2d(padded, flipped) if ctx.needs_input_grad[0] else None
        weight_gradient = (
            _flipped_kernel(conv2d_weight(padded, flipped.shape, image)) if ctx.needs_input_grad[1] else None
        )
        return image_gradient, weight_gradient


class _FromOne(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.options = {"stride": stride, "padding": padding}
        return conv2d(image, weight, stride=stride, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        image_gradient = weight_gradient = None
        if ctx.needs_input_grad[0] and ctx.options["stride"] == 1:
            image_gradient = _sum_over_rows(_zero_padded(gradient, weight), _flipped_kernel(weight))
        elif ctx.needs_input_grad[0]:
            image_gradient = _transposed_to_one(gradient, weight, image.shape[2:], ctx.options["padding"])
        if ctx.needs_input_grad[1]:
            weight_gradient = conv2d_weight(image, weight.shape, gradient, **ctx.options)
        return image_gradient, weight_gradient, None, None


class _DoubledToOne(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return _transposed_to_one(image, weight, [2 * side for side in image.shape[2:]], padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        image, weight = ctx.saved_tensors
        image_gradient = conv2d(gradient, weight, stride=2, padding=1) if ctx.needs_input_grad[0] else None
        weight_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = conv2d_weight(gradient, weight.shape, image, stride=2, padding=1)
        return image_gradient, weight_gradient


def _transposed_to_one(image: Tensor, weight: Tensor, size: Sequence[int], padding: int) -> Tensor:
    """Return the transposed convolution of stride 2 to one channel of a given size: the sum of one plane a tap."""
    taps = weight.flatten(1).T.expand(len(image), -1, -1)
    planes = torch.bmm(taps, image.flatten(2))  # (r², C) by (C, H W)
    return fold(planes, tuple(size), weight.shape[2:], stride=2, padding=padding)


def _sum_over_rows(image: Tensor, weight: Tensor) -> Tensor:
    """Return the convolution to one channel as the sum over the kernel's rows."""
    height = image.shape[2] - weight.shape[2] + 1
    rows = conv2d(image, weight[0].transpose(0, 1)[:, :, None])  # (r, C, 1, s) to (N, r, H, W − s + 1)
    result = rows[:, :1, :height].clone()
    for row in range(1, rows.shape[1]):
        result += rows[:, row : row + 1, row : row + height]
    return result


def _zero_padded(gradient: Tensor, weight: Tensor) -> Tensor:
    """Pad a gradient with zeros by the kernel's size less one on all sides."""
    rows, columns = (side - 1 for side in weight.shape[2:])
    return pad(gradient, (columns, columns, rows, rows))


def _flipped_kernel(weight: Tensor) -> Tensor:
    """Turn a kernel by 180° and swap its channels, as in the gradient's convolution."""
    return weight.flip(2, 3).transpose(0, 1)
