"""Padding by mirror image: its gradient, which torch takes pixel by pixel on the CPU, by adding a few strips."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import pad


def reflect(image: Tensor, width: int) -> Tensor:
    """Pad (N, C, H, W) by reflection on all four sides, the border itself not repeated: `width` less than H and W."""
    return _Mirrored.apply(image, width, "reflect") if width else image


def repeat_border(image: Tensor) -> Tensor:
    """Pad (N, C, H, W) on all four sides with one more of its outermost pixels."""
    return _Mirrored.apply(image, 1, "replicate")


class _Mirrored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, width: int, mode: str) -> Tensor:
        ctx.width, ctx.skipped = width, int(mode == "reflect")
        return pad(image, (width,) * 4, mode=mode)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _folded(_folded(gradient, 2, ctx.width, ctx.skipped), 3, ctx.width, ctx.skipped), None, None


def _folded(gradient: Tensor, axis: int, width: int, skipped: int) -> Tensor:
    """Add both margins of an axis, mirrored, to the pixels that they were copied from."""
    size = gradient.shape[axis] - 2 * width
    inner = gradient.narrow(axis, width, size).clone()
    inner.narrow(axis, skipped, width).add_(gradient.narrow(axis, 0, width).flip(axis))
    inner.narrow(axis, size - width - skipped, width).add_(gradient.narrow(axis, width + size, width).flip(axis))
    return inner
