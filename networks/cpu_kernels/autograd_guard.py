"""A guard for hand-written gradients: it refuses second derivatives, which they do not have."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., tuple[Tensor | None, ...]]


def once_differentiable(backward: Backward) -> Backward:
    """Wrap the `backward` of a `torch.autograd.Function`, so that it raises if a second derivative is taken.

    `torch.autograd.function.once_differentiable` raises only if the incoming gradient depends on weights. If it does
    not, as after a linear last layer, it silently treats the result as a constant.
    """

    @wraps(backward)
    def guarded_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this way of computing a layer is differentiable once; for second derivatives (a gradient penalty) "
                "compute the network within networks.cpu_kernels.twice_differentiable()"
            )
        return backward(ctx, *gradients)

    return guarded_backward
