"""Refusing second derivatives of what has a hand-written first one."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

Backward = Callable[..., tuple[Tensor | None, ...]]


def once_differentiable(backward: Backward) -> Backward:
    """Wrap the `backward` of a `torch.autograd.Function`, so that it raises where a graph of it is asked for.

    `torch.autograd.function.once_differentiable` raises only where the incoming gradient depends on weights, and takes
    the result for a constant where it does not: in the gradient of a linear last layer's output, silently.
    """

    @wraps(backward)
    def guarded(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this way of computing a layer is differentiable once; for second derivatives (a gradient penalty) "
                "compute the network within networks.cpu_kernels.convolutions.reference_conv()"
            )
        return backward(ctx, *gradients)

    return guarded
