"""The last layer of a generator, in a precision that keeps all grey levels."""

from collections.abc import Callable

import torch
from torch import Tensor

CORRECTION = 0.1  # factor of a generator's output before tanh where it corrects an image


def output_image(features: Tensor, last: Callable[[Tensor], Tensor], offset: Tensor | None = None) -> Tensor:
    """Return tanh(last(features)), (N, 1, H, W) in [-1, 1], in single precision also where autocast is on.

    `last` is the generator's last convolution, to a single channel, of features in any floating-point type; `offset`,
    (N, 1, H, W) in single precision, artanh of an image that is corrected (`with_offset`).
    """
    output = in_full_precision(last, features)
    return with_offset(output, offset)


def with_offset(output: Tensor, offset: Tensor | None) -> Tensor:
    """Return tanh(output), or tanh(offset + a tenth of the output), so that first steps do not spoil the start."""
    if offset is None:
        return torch.tanh(output)
    if torch.compiler.is_compiling():  # Inductor folds a factor into a transposed convolution's weights, and fails
        return torch.tanh(torch.add(offset, output, alpha=CORRECTION))
    return torch.tanh(offset + CORRECTION * output)


def in_full_precision(layer: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Return layer(features), in single precision also where autocast is on.

    bf16 has 8 significant bits: 128 numbers between 0.5 and 1, where scans hold 12 bits. So features that autocast made
    are converted back, and the layer computes in the precision of its own weights.

    An exported network has both in its graph, so that it gives the same grey levels when run under autocast.
    """
    device = features.device.type
    exporting = torch.compiler.is_exporting()
    if not exporting and not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return layer(features)
    dtype = torch.promote_types(features.dtype, torch.float32)
    # While a network is exported, `to` would assert the type that is met in tracing.
    features = torch.ops.aten._to_copy.default(features, dtype=dtype) if exporting else features.to(dtype)
    with torch.autocast(device, enabled=False):
        return layer(features)
