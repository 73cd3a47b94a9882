"""The losses of adversarial translation, as functions."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

AdversarialLoss = Callable[[Tensor, bool], Tensor]


def binary_cross_entropy(logits: Tensor, real: bool) -> Tensor:
    """Mean -log p(real) or -log p(not real) from logits (Goodfellow et al. 2014, non-saturating form)."""
    logits = _at_least_single(logits)
    return F.softplus(-logits if real else logits).mean()


def least_squares(logits: Tensor, real: bool) -> Tensor:
    """Mean (D(x) - 1)² for real, D(x)² for not (Mao et al. 2017, equation 9 with a=0, b=c=1)."""
    logits = _at_least_single(logits)
    return ((logits - 1.0) if real else logits).square().mean()


ADVERSARIAL: dict[str, AdversarialLoss] = {"bce": binary_cross_entropy, "least_squares": least_squares}


def mean_absolute(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean |prediction - target|: the L1 norm of the cycle and identity losses (Zhu et al. 2017, equation 2)."""
    return F.l1_loss(prediction, target)


def all_finite(losses: dict[str, Tensor]) -> bool:
    """Return whether every loss is a number; one look at the device for all of them."""
    return bool(torch.isfinite(torch.stack([loss.detach().float() for loss in losses.values()])).all())


def _at_least_single(logits: Tensor) -> Tensor:
    """Return half-precision logits in float32: three digits are too few for a mean over hundreds of patches."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
