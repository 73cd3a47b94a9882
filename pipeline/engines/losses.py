"""The losses of adversarial translation, as functions."""

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Tensor | Sequence[Tensor]  # of one scale, or of several, whose losses are summed
AdversarialLoss = Callable[[Logits, bool], Tensor]


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


def divergence_from_normal(mean: Tensor) -> Tensor:
    """Mean KL(N(μ, 1) ‖ N(0, 1)) = μ²/2 of all elements (Liu et al. 2017, equation 3), in float32 at least."""
    return mean.to(torch.promote_types(mean.dtype, torch.float32)).square().mean() / 2


def total(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of some scalars, in order."""
    return functools.reduce(torch.add, terms)


def finite(losses: dict[str, Tensor]) -> Tensor:
    """Return whether every loss is finite, as a tensor () on their device."""
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    return (values - values).sum() == 0  # fewer operations than isfinite: inf - inf is NaN


def _scales(logits: Logits) -> list[Tensor]:
    """Return each scale's logits in float32 at least, for half precision is too coarse for a mean over many patches."""
    scales = [logits] if isinstance(logits, Tensor) else logits
    return [scale.to(torch.promote_types(scale.dtype, torch.float32)) for scale in scales]
