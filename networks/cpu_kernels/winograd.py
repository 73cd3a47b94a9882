"""Convolutions with small kernels in fewer multiplications: Winograd's minimal filtering (Lavin and Gray 2016).

"Fast Algorithms for Convolutional Neural Networks", equation 11: of an image's overlapping tiles d and a kernel g,
F(m×m, r×r) makes m×m outputs Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A with (m + r − 1)² multiplications instead of m²r². Summed
over the channels, the products ⊙ are (m + r − 1)² matrix products, channels by channels by tiles. With m = 4 those are
36 multiplications instead of 144 for 3×3 kernels, and 49 instead of 256 for 4×4.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, fold, pad

from networks.cpu_kernels.autograd_guard import once_differentiable

OUTPUTS = 4
LEAST_CHANNELS, LEAST_KERNELS = 64, 64 * 128  # measured: 0.9 of the time there, 0.5 with 256 channels
LEAST_TILES = {3: 64, 4: 60}  # by the kernel's taps: 60 are the 31×31 pixels that discriminators of 256×256 have
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0, 2.0)  # of 3×3 kernels: a third less error than 2, -2 (why: Barabasz et al. 2020)


def convolve(image: Tensor, weight: Tensor) -> Tensor:
    """Correlate (N, C, H, W) with (K, C, r, r), r at most 4 and at most H and W, unpadded and at stride 1, as `conv2d`
    does.

    Differentiable once in both arguments, with as few multiplications in the backward pass. The transformed image, 2.25
    times as large, exists for one sample at a time and is computed again in the backward pass. In float32 the error is
    some 2e-6 of the result's standard deviation (root mean square; 2e-5 at the most of a million), ten times that of
    the plain sum; with 4×4 kernels twice as much.
    """
    return _Winograd.apply(image, weight)


def is_faster(image: Tensor, weight: Tensor, padding: int = 0) -> bool:
    """Whether `convolve` was measured to be faster than torch's: many channels and pixels, kernels of 3×3 or 4×4.

    With few channels the transform of the tiles costs what is saved; with few tiles that of the kernels does. `padding`
    are pixels that are still to be added on every side of the image.
    """
    if not suits_winograd(weight):
        return False
    taps = weight.shape[-1]
    height, width = (side + 2 * padding - taps + 1 for side in image.shape[2:])
    return height * width / OUTPUTS**2 >= LEAST_TILES[taps]


def suits_winograd(weight: Tensor) -> bool:
    """Whether `convolve` is faster with kernels (K, C, r, r) if the image is large enough."""
    out_channels, in_channels, *kernel = weight.shape
    return (
        kernel in ([3, 3], [4, 4])
        and min(in_channels, out_channels) >= LEAST_CHANNELS
        and in_channels * out_channels >= LEAST_KERNELS
    )


@lru_cache
def minimal_filtering(outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Aᵀ (m², n²), G (n², r²) and Bᵀ (n², n²) of F(m×m, r×r) for flattened tiles, where n = m + r − 1.

    In one dimension they are Vandermonde matrices V of n points, one of them infinity (Toom and Cook's product of
    polynomials, transposed): Aᵀ = V(m)ᵀ, G = V(r), Bᵀ = V(n)⁻ᵀ. In two they are Kronecker products of those.
    """
    size = outputs + taps - 1

    def vandermonde(columns: int) -> np.ndarray:
        finite = np.vander(POINTS[: size - 1], columns, increasing=True)
        return np.vstack([finite, np.eye(1, columns, columns - 1)])  # infinity: the highest coefficient

    one_dimension = vandermonde(outputs).T, vandermonde(taps), np.linalg.inv(vandermonde(size)).T
    results, kernels, inputs = (np.kron(matrix, matrix) for matrix in one_dimension)
    return results, kernels, inputs


class _Transforms:
    """The transforms of kernels, images and gradients, in a weight's data type; images have no batch axis."""

    def __init__(self, weight: Tensor):
        self.taps = weight.shape[-1]
        self.size = OUTPUTS + self.taps - 1
        matrices = minimal_filtering(OUTPUTS, self.taps)
        self.outputs, self.kernels, self.inputs = (
            torch.as_tensor(matrix, dtype=weight.dtype, device=weight.device) for matrix in matrices
        )

    def transform_kernels(self, weight: Tensor) -> Tensor:
        """Return G g Gᵀ: (K, C, r, r) to (n², K, C)."""
        return (self.kernels @ weight.reshape(-1, self.taps**2).T).view(-1, *weight.shape[:2])

    def transform_image(self, image: Tensor) -> Tensor:
        """Return Bᵀ d B of each tile: (C, H, W), whole tiles, to (n², C, tiles)."""
        filters = self.inputs.view(-1, 1, self.size, self.size)
        return conv2d(image[:, None], filters, stride=OUTPUTS).flatten(2).transpose(0, 1)

    def inverse_transform(self, products: Tensor, rows: int) -> Tensor:
        """Return Aᵀ[…]A of the tiles, put together: (n², K, tiles) to (K, 4 rows, 4 columns)."""
        tiles = self.outputs @ products.transpose(0, 1)  # (K, m², tiles)
        blocks = tiles.view(len(tiles), OUTPUTS, OUTPUTS, rows, -1)
        return blocks.permute(0, 3, 1, 4, 2).reshape(len(tiles), rows * OUTPUTS, -1)

    def transform_gradient(self, gradient: Tensor) -> Tensor:
        """Return the transpose of `inverse_transform`: (K, 4 rows, 4 columns) to (n², K, tiles)."""
        filters = self.outputs.T.reshape(-1, 1, OUTPUTS, OUTPUTS)
        return conv2d(gradient[:, None], filters, stride=OUTPUTS).flatten(2).transpose(0, 1)

    def input_gradient(self, products: Tensor, height: int, width: int) -> Tensor:
        """Return the transpose of `transform_image`: (n², C, tiles) to (C, height, width), overlapping tiles added."""
        tiles = self.inputs.T @ products.transpose(0, 1)
        return fold(tiles.flatten(0, 1), (height, width), self.size, stride=OUTPUTS)

    def kernel_gradient(self, products: Tensor) -> Tensor:
        """Return the transpose of `transform_kernels`: (n², K, C) to (K, C, r, r)."""
        return (self.kernels.T @ products.flatten(1)).T.reshape(*products.shape[1:], self.taps, self.taps)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        tile_transforms = _Transforms(weight)
        height, width = (side - tile_transforms.taps + 1 for side in image.shape[-2:])
        result = image.new_empty(len(image), len(weight), height, width)
        kernels = tile_transforms.transform_kernels(weight)
        for sample, output in zip(_pad_to_tiles(image, tile_transforms.taps - 1), result, strict=True):
            products = torch.bmm(kernels, tile_transforms.transform_image(sample))
            output.copy_(tile_transforms.inverse_transform(products, -(-height // OUTPUTS))[:, :height, :width])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        image, weight = ctx.saved_tensors
        tile_transforms = _Transforms(weight)
        kernels = tile_transforms.transform_kernels(weight).transpose(1, 2)
        image_gradient = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        kernel_products = image.new_zeros(kernels.mT.shape) if ctx.needs_input_grad[1] else None
        padded = _pad_to_tiles(image, tile_transforms.taps - 1)
        for index, sample in enumerate(_pad_to_tiles(gradient, 0)):
            products = tile_transforms.transform_gradient(sample)
            if image_gradient is not None:
                padded_gradient = tile_transforms.input_gradient(torch.bmm(kernels, products), *padded.shape[-2:])
                image_gradient[index] = padded_gradient[:, : image.shape[-2], : image.shape[-1]]
            if kernel_products is not None:
                kernel_products.baddbmm_(products, tile_transforms.transform_image(padded[index]).mT)
        return image_gradient, tile_transforms.kernel_gradient(kernel_products) if kernel_products is not None else None


def _pad_to_tiles(image: Tensor, excess: int) -> Tensor:
    """Append zeros to (N, C, H, W) so that H and W are `excess` more than a multiple of 4."""
    missing = [-(side - excess) % OUTPUTS for side in image.shape[-2:]]
    return pad(image, (0, missing[1], 0, missing[0])) if any(missing) else image.contiguous()
