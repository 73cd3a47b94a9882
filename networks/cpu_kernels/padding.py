"""Padding by mirror image with a fast gradient: it adds a few strips, where torch goes pixel by pixel on the CPU."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import pad


def reflect(image: Tensor, width: int) -> Tensor:
    """Pad (N, C, H, W) by reflection on all four sides, the border not repeated; `width` is less than H and W."""
    return _MirrorPad.apply(image, width, "reflect") if width else image


def repeat_border(image: Tensor) -> Tensor:
    """Pad (N, C, H, W) by repeating its outermost pixels once on all four sides."""
    return _MirrorPad.apply(image, 1, "replicate")


class _MirrorPad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, width: int, mode: str) -> Tensor:
        ctx.width, ctx.border_width = width, int(mode == "reflect")
        return pad(image, (width,) * 4, mode=mode)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        padded_gradient, width = gradient.clone(), ctx.width
        for axis in (2, 3):
            _add_margins(padded_gradient, axis, width, ctx.border_width)
        return padded_gradient[:, :, width:-width, width:-width].contiguous(), None, None


def _add_margins(gradient: Tensor, axis: int, width: int, border_width: int) -> None:
    """Add both margins of an axis, mirrored, to the pixels that they were copied from."""
    size = gradient.shape[axis]
    for margin, origin in ((0, width + border_width), (size - width, size - 2 * width - border_width)):
        gradient.narrow(axis, origin, width).add_(gradient.narrow(axis, margin, width).flip(axis))
