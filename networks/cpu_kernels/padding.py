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
        folded, width = gradient.clone(), ctx.width
        for axis in (2, 3):
            _fold_in(folded, axis, width, ctx.skipped)
        return folded[:, :, width:-width, width:-width].contiguous(), None, None


def _fold_in(gradient: Tensor, axis: int, width: int, skipped: int) -> None:
    """Add both margins of an axis, mirrored, to the pixels that they were copied from."""
    size = gradient.shape[axis]
    for margin, origin in ((0, width + skipped), (size - width, size - 2 * width - skipped)):
        gradient.narrow(axis, origin, width).add_(gradient.narrow(axis, margin, width).flip(axis))
