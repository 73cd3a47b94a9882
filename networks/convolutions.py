"""Layers of convolution that choose the cheapest of several equal ways of computing it.

They are `nn.Conv2d` and `nn.Sequential` with the same parameters, and compute as those do on a GPU, in half precision
and where they are traced, compiled or exported: the other ways were measured to be faster on the CPU alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils.parametrize import is_parametrized

from networks.doubled import convolve_doubled
from networks.padding import reflect
from networks.single_channel import convolve_from_one, convolve_to_one
from networks.winograd import convolve, filters_minimally, pays

_choosing = ContextVar("choosing", default=True)


class ReflectedConv2d(nn.Conv2d):
    """A convolution of one group that pads by reflection, as many pixels on every side."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, padding: int = 0, *, bias: bool = True):
        super().__init__(before, after, kernel, stride, padding, padding_mode="reflect", bias=bias)

    @property
    def outruns_compiled(self) -> bool:
        """Whether in single precision it is faster than what a compiler makes of it, which is the plain way."""
        return self.stride == (1, 1) and filters_minimally(self.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, before, H, W) to (N, after, H / stride, W / stride); H and W are more than the padding."""
        weight = self.weight  # once: where it is normalised spectrally, to ask for it is a power iteration
        if not cheaper_ways_apply(image, weight):
            return self._conv_forward(image, weight, self.bias)
        padded = reflect(image, self.padding[0])
        if self.stride == (1, 1):
            for way, applies in (
                (convolve_to_one, self.out_channels == 1),
                (convolve_from_one, self.in_channels == 1),
                (convolve, pays(padded, weight)),
            ):
                if applies:
                    return _offset(way(padded, weight), self.bias)
        return conv2d(padded, weight, self.bias, self.stride)


class RepeatedDoubling(nn.Sequential):
    """`nn.Upsample` of factor 2 by nearest neighbour, a `ReflectedConv2d` of kernel 3 or 5, and what may follow."""

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, 2H, 2W)."""
        _, convolution, *others = self
        plain = is_parametrized(convolution) or min(image.shape[-2:]) < 2  # to ask for such a weight changes it
        if plain or not cheaper_ways_apply(image, convolution.weight):
            return super().forward(image)
        features = _offset(convolve_doubled(image, convolution.weight), convolution.bias)
        for layer in others:
            features = layer(features)
        return features


def cheaper_ways_apply(image: Tensor, weight: Tensor) -> bool:
    """Whether a layer may choose: a batch on the CPU, in float32 or float64, neither autocast nor traced."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and image.device.type == weight.device.type == "cpu"
        and image.dtype == weight.dtype
        and image.dtype in (torch.float32, torch.float64)
        and image.dim() == 4
        and not torch.is_autocast_enabled("cpu")
        and _choosing.get()
    )


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Compute the plain way in what follows, as on a GPU: to count what it would be asked for."""
    before = _choosing.set(False)
    try:
        yield
    finally:
        _choosing.reset(before)


def plainly(network: nn.Module) -> nn.Module:
    """Put `nn.Conv2d` and `nn.Sequential` in the place of these layers, with the same weights; return the network.

    Raises:
        ValueError: a layer's weight is parametrised (a spectral norm), which a plain one would not take over.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, RepeatedDoubling):
                setattr(module, name, nn.Sequential(*plainly(child)))
            elif isinstance(child, ReflectedConv2d):
                setattr(module, name, _plain(child))
    return network


def _plain(layer: ReflectedConv2d) -> nn.Conv2d:
    if is_parametrized(layer):
        raise ValueError("a layer whose weight is parametrised has no plain form")
    plain = nn.Conv2d(
        *(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding),
        padding_mode="reflect",
        bias=layer.bias is not None,
        device="meta",
    )
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain


def _offset(features: Tensor, bias: Tensor | None) -> Tensor:
    return features if bias is None else features + bias[:, None, None]
