"""Nearest-neighbour up-sampling by 2 and a convolution, without making the up-sampled image.

Each pixel x[i] of the small image becomes u[2i] = u[2i + 1] = x[i]. So an output pixel in an even (a = 0) or odd
(a = 1) row sees fewer different rows than its kernel has. The convolution of the up-sampled image is a convolution of
the small image for each of the four parities (a, b); taps that meet the same pixel are added (the inverse of the
sub-pixel convolution of Shi et al. 2016):

    y[2i + a, 2j + b] = Σ_st v_ab[s, t] x[i + s − 1, j + t − 1],   v_ab = S_a w S_bᵀ

3×3 kernels become 2×2, 5×5 become 3×3: 16 multiplications for 36, and 36 for 100.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, pad

from networks.cpu_kernels.winograd import convolve, is_faster

# S_a: for an even and for an odd output row, the kernel's rows that meet each row of the small image (one a line)
TAP_SUMS = {
    3: (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1))),
    5: (((1, 1, 0, 0, 0), (0, 0, 1, 1, 0), (0, 0, 0, 0, 1)), ((1, 0, 0, 0, 0), (0, 1, 1, 0, 0), (0, 0, 0, 1, 1))),
}


def upsample_and_convolve(image: Tensor, weight: Tensor) -> Tensor:
    """Up-sample an image by 2 (nearest neighbour), pad by reflection so that the size is kept, and correlate.

    The image is (N, C, H, W), H and W at least 2, the weight (K, C, 3, 3) or (K, C, 5, 5), the result (N, K, 2H, 2W).
    """
    kernel, (height, width) = weight.shape[-1], image.shape[-2:]
    sums = torch.tensor(TAP_SUMS[kernel], dtype=weight.dtype, device=weight.device)
    kernels = torch.einsum("asp,btq,kcpq->kabcst", sums, sums, weight).flatten(0, 2)
    padded = pad(image, (1,) * 4, mode="replicate")
    parities = (convolve if is_faster(padded, kernels) else conv2d)(padded, kernels)
    parities = parities.unflatten(1, (-1, 2, 2))  # (N, K, a, b, rows, columns)
    if kernel == 3:
        parities = _align_parities(parities)
    result = parities.permute(0, 1, 4, 2, 5, 3).reshape(len(image), len(weight), 2 * height, 2 * width)
    return result if kernel == 3 else _AddToBorder.apply(result, *_border_corrections(image, weight))


def _align_parities(parities: Tensor) -> Tensor:
    """Cut (N, K, a, b, H + 1, W + 1) to (N, K, a, b, H, W): the 2×2 kernels of odd rows begin a pixel further down."""
    rows = torch.stack([parities[:, :, 0, ..., :-1, :], parities[:, :, 1, ..., 1:, :]], dim=2)
    return torch.stack([rows[:, :, :, 0, ..., :-1], rows[:, :, :, 1, ..., 1:]], dim=3)


def _border_corrections(image: Tensor, weight: Tensor) -> list[Tensor]:
    """Return what reflection adds to the outermost pixels: top and bottom (N, K, 2W), left and right (N, K, 2H).

    One pixel outside the up-sampled image, reflection and repetition agree. Two pixels outside, where only the
    outermost taps of the outermost outputs reach, reflection has x[1] instead of x[0]. With E for repetition and D for
    the difference, (E + D) ⊗ (E + D) = E ⊗ E + D ⊗ (E + D) + E ⊗ D: rows are extended by reflection, columns by
    repetition.
    """
    rows, columns = [], []
    for edge, neighbour, tap in ((0, 1, 0), (-1, -2, 4)):
        row = (image[:, :, neighbour] - image[:, :, edge]).repeat_interleave(2, dim=2)
        row = torch.cat([row[..., 2:3], row[..., 1:2], row, row[..., -2:-1], row[..., -3:-2]], dim=2)
        rows.append(conv1d(row, weight[:, :, tap]))
        column = (image[..., neighbour] - image[..., edge]).repeat_interleave(2, dim=2)
        column = torch.cat([column[..., :1]] * 2 + [column] + [column[..., -1:]] * 2, dim=2)
        columns.append(conv1d(column, weight[..., tap]))
    return rows + columns


class _AddToBorder(torch.autograd.Function):
    """Adds to the outermost rows and columns in place; its gradient copies nothing, where torch would copy all."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
        ctx.mark_dirty(image)
        image[:, :, 0] += top
        image[:, :, -1] += bottom
        image[..., 0] += left
        image[..., -1] += right
        return image

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, gradient[:, :, 0], gradient[:, :, -1], gradient[..., 0], gradient[..., -1]
