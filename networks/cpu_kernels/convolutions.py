"""Layers of convolution that choose the cheapest of several equal ways of computing it.

They are those of `torch.nn` with the same parameters, and compute as those do on a GPU, in half precision
and where they are traced, compiled or exported: the other ways were measured to be faster on the CPU alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.nn.utils.parametrize import is_parametrized

from networks.cpu_kernels import gemm_conv
from networks.cpu_kernels.padding import reflect
from networks.cpu_kernels.single_channel_conv import convolve_from_one, convolve_to_one, double_to_one, halve_from_one
from networks.cpu_kernels.upsample_conv import upsample_and_convolve
from networks.cpu_kernels.winograd import convolve, is_faster, suits_winograd

Way = Callable[[Tensor, Tensor], Tensor]  # image, weight

_kernels_enabled = ContextVar("kernels_enabled", default=True)


class Convolution(nn.Conv2d):
    """`nn.Conv2d`, by a cheaper way where it has one group and pads all sides alike, by reflection or with zeros."""

    @property
    def is_faster_than_compiled(self) -> bool:
        """Whether in single precision it is faster than what a compiler makes of it, which is the plain way."""
        return self.stride == (1, 1) and suits_winograd(self.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, h, w) as `nn.Conv2d` does; H and W are more than a padding that reflects."""
        weight = self.weight  # once: where it is normalised spectrally, to ask for it is a power iteration
        if not (_is_usual(self) and kernels_apply(image, weight)):
            return self._conv_forward(image, weight, self.bias)
        padding = self.padding[0]
        if self.padding_mode == "reflect":
            image, padding = reflect(image, padding), 0
        way = self._cheaper_way(image, weight, padding)
        if way is None:
            return conv2d(image, weight, self.bias, self.stride, padding)
        return _offset(way(image, weight), self.bias)

    def _cheaper_way(self, image: Tensor, weight: Tensor, padding: int) -> Way | None:
        """Return what computes it for less than the library, if anything does, of an image to pad with zeros."""
        kernels, channels, *taps = weight.shape
        if any(side + 2 * padding < reach for side, reach in zip(image.shape[2:], taps, strict=True)):
            return None  # the library says what is wrong
        if self.stride == (2, 2):
            if padding == 1 and gemm_conv.is_faster(image.shape[0] * image.shape[2] * image.shape[3] // 4, weight):
                return gemm_conv.halve
            return partial(halve_from_one, padding=padding) if channels == 1 else None
        if self.stride != (1, 1):
            return None
        if kernels == 1:
            way = convolve_to_one
        elif channels == 1:
            way = convolve_from_one
        elif is_faster(image, weight, padding):
            way = convolve
        else:
            return None
        return way if padding == 0 else lambda image, weight: way(pad(image, (padding,) * 4), weight)


class TransposedConvolution(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, by a cheaper way where its kernel is 4×4, its stride 2 and its padding 1."""

    def forward(self, image: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, K, h, w) as `nn.ConvTranspose2d` does."""
        weight = self.weight
        doubles = (self.kernel_size, self.stride, self.padding, self.output_padding) == ((4, 4), (2, 2), (1, 1), (0, 0))
        if doubles and output_size is None and _is_usual(self) and kernels_apply(image, weight):
            if weight.shape[1] == 1:
                return _offset(double_to_one(image, weight), self.bias)
            if gemm_conv.is_faster(image.shape[0] * image.shape[2] * image.shape[3], weight):
                return _offset(gemm_conv.double(image, weight), self.bias)
        return super().forward(image, output_size)


class UpsampleConvolution(nn.Sequential):
    """`nn.Upsample` of factor 2 by nearest neighbour, a `Convolution` that reflects, kernel 3 or 5, and what else."""

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, 2H, 2W)."""
        _, convolution, *others = self
        plain = is_parametrized(convolution) or min(image.shape[-2:]) < 2  # to ask for such a weight changes it
        if plain or not kernels_apply(image, convolution.weight):
            return super().forward(image)
        features = _offset(upsample_and_convolve(image, convolution.weight), convolution.bias)
        for layer in others:
            features = layer(features)
        return features


def _is_usual(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether a layer's options are those that the cheaper ways know."""
    return (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode in ("zeros", "reflect")
        and isinstance(layer.padding, tuple)  # not "same", nor "valid"
        and len(set(layer.padding)) == 1
    )


def kernels_apply(image: Tensor, weight: Tensor) -> bool:
    """Whether a layer may choose: a batch on the CPU, in float32 or float64, neither autocast nor traced."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and image.device.type == weight.device.type == "cpu"
        and image.dtype == weight.dtype
        and image.dtype in (torch.float32, torch.float64)
        and image.dim() == 4
        and not torch.is_autocast_enabled("cpu")
        and _kernels_enabled.get()
    )


@contextmanager
def reference_conv() -> Iterator[None]:
    """Compute the plain way in what follows, as on a GPU: the others are differentiable only once."""
    before = _kernels_enabled.set(False)
    try:
        yield
    finally:
        _kernels_enabled.reset(before)


def accelerate(network: nn.Module) -> nn.Module:
    """Put a `Convolution` in the place of every `nn.Conv2d`, with the same weights; return the network.

    To be called on a fresh network, none of whose layers stands in two places: hooks are lost.
    """
    return _exchanged(network, lambda layer: _like(layer, Convolution) if type(layer) is nn.Conv2d else None)


def reference_layers(network: nn.Module) -> nn.Module:
    """Put `nn.Conv2d`, `nn.ConvTranspose2d` and `nn.Sequential` in the place of these layers; return the network.

    Raises:
        ValueError: a layer's weight is parametrised (a spectral norm), which a plain one would not take over.
    """
    return _exchanged(network, _plain)


def _plain(layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, UpsampleConvolution):
        return nn.Sequential(*layer)
    for ours, plain in ((Convolution, nn.Conv2d), (TransposedConvolution, nn.ConvTranspose2d)):
        if isinstance(layer, ours):
            if is_parametrized(layer):
                raise ValueError("a layer whose weight is parametrised has no plain form")
            return _like(layer, plain)
    return None


def _exchanged(network: nn.Module, exchange: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Return a network with what `exchange` makes of every layer in its place, where that is anything but None."""
    other = exchange(network)
    network = network if other is None else other
    for name, child in network.named_children():
        setattr(network, name, _exchanged(child, exchange))
    return network


def _like(layer: nn.Conv2d | nn.ConvTranspose2d, kind: type[nn.Module]) -> nn.Module:
    """Return a layer of another kind with the same weights."""
    options = {"output_padding": layer.output_padding} if isinstance(layer, nn.ConvTranspose2d) else {}
    options |= {"groups": layer.groups, "dilation": layer.dilation}
    other = kind(
        *(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding),
        padding_mode=layer.padding_mode,
        bias=layer.bias is not None,
        device="meta",
        **options,
    )
    other.weight, other.bias = layer.weight, layer.bias
    return other.train(layer.training)


def _offset(features: Tensor, bias: Tensor | None) -> Tensor:
    return features if bias is None else features + bias[:, None, None]
