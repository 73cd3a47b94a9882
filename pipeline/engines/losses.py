"""The losses of adversarial translation, as functions."""

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Tensor | Sequence[Tensor]  # of one scale, or of several, whose losses are summed
AdversarialLoss = Callable[[Logits, bool], Tensor]
SSIM_WINDOW = 7  # pixels
SSIM_CONSTANTS = (0.02**2, 0.06**2)  # (0.01 · 2)² and (0.03 · 2)²


def binary_cross_entropy(logits: Logits, real: bool) -> Tensor:
    """Mean -log p(real) or -log p(not real) from logits (Goodfellow et al. 2014, non-saturating form)."""
    return total([F.softplus(-scale if real else scale).mean() for scale in _scales(logits)])


def least_squares(logits: Logits, real: bool) -> Tensor:
    """Mean (D(x) - 1)² for real, D(x)² for not (Mao et al. 2017, equation 9 with a=0, b=c=1)."""
    return total([((scale - 1.0) if real else scale).square().mean() for scale in _scales(logits)])


def wasserstein(logits: Logits, real: bool) -> Tensor:
    """Mean -D(x) for real, D(x) for not (Arjovsky et al. 2017, equation 2); the critic must be kept Lipschitz."""
    return total([(-scale if real else scale).mean() for scale in _scales(logits)])


ADVERSARIAL: dict[str, AdversarialLoss] = {
    "bce": binary_cross_entropy,
    "least_squares": least_squares,
    "wasserstein": wasserstein,
}
CHANCE = {"bce": math.log(2), "least_squares": 0.25}  # least mean of a scale's logits that do not depend on the image


def mean_absolute(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean |prediction - target|: the L1 norm of the cycle and identity losses (Zhu et al. 2017, equation 2)."""
    return F.l1_loss(prediction, target)


def structural_dissimilarity(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean 1 - SSIM of images (N, C, H, W) in [-1, 1], in [0, 2] (Wang et al. 2004; as a loss, Zhao et al. 2017).

    Over windows of 7x7 pixels of one weight, with the usual constants for a data range of 2, in float32 at least.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    p, t = prediction.to(dtype), target.to(dtype)
    means = box_mean(torch.cat([p, t, p.square() + t.square(), p * t]), SSIM_WINDOW)
    p_mean, t_mean, squares, products = means.chunk(4)
    product, mean_squares = p_mean * t_mean, p_mean.square() + t_mean.square()
    luminance = (2 * product + SSIM_CONSTANTS[0]) / (mean_squares + SSIM_CONSTANTS[0])
    structure = (2 * (products - product) + SSIM_CONSTANTS[1]) / (squares - mean_squares + SSIM_CONSTANTS[1])
    return 1 - (luminance * structure).mean()


def divergence_from_normal(mean: Tensor) -> Tensor:
    """Mean KL(N(μ, 1) ‖ N(0, 1)) = μ²/2 of all elements (Liu et al. 2017, equation 3), in float32 at least."""
    return mean.to(torch.promote_types(mean.dtype, torch.float32)).square().mean() / 2


def total(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of some scalars, in order."""
    return functools.reduce(torch.add, terms)


def box_mean(images: Tensor, width: int) -> Tensor:
    """Return the means over squares of pixels, (N, C, H, W) → (N, C, H - width + 1, W - width + 1).

    Sums of shifted images take a third of the time of `avg_pool2d` on a CPU, and no rounded factors as a convolution
    on a GPU may.
    """
    for axis in (2, 3):
        length = images.shape[axis] - width + 1
        images = total([images.narrow(axis, start, length) for start in range(width)])
    return images / width**2


def finite(losses: dict[str, Tensor]) -> Tensor:
    """Return whether every loss is finite, as a tensor () on their device."""
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    return (values - values).sum() == 0  # fewer operations than isfinite: inf - inf is NaN


def _scales(logits: Logits) -> list[Tensor]:
    """Return each scale's logits in float32 at least, for half precision is too coarse for a mean over many patches."""
    scales = [logits] if isinstance(logits, Tensor) else logits
    return [scale.to(torch.promote_types(scale.dtype, torch.float32)) for scale in scales]
