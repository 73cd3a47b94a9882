"""Convolution layers that choose the fastest of several implementations that give the same result.

`accelerate` turns the layers of a network into these, which have the weights of their `torch.nn` counterparts. On a
GPU, in half precision, and when traced, compiled or exported they use torch's own implementation: the others were
measured to be faster only on the CPU.
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
from networks.cpu_kernels.single_channel_conv import (
    conv_stride2_from_one_channel,
    convolve_from_one_channel,
    convolve_to_one_channel,
    transposed_conv_to_one_channel,
)
from networks.cpu_kernels.upsample_conv import upsample_and_convolve
from networks.cpu_kernels.winograd import convolve, is_faster

Implementation = Callable[[Tensor, Tensor], Tensor]  # image, weight

DOUBLING = ((4, 4), (2, 2), (1, 1), (0, 0))  # kernel, stride, padding and output padding of a U-Net's transposed layers
_kernels_enabled = ContextVar("kernels_enabled", default=True)


class Convolution(nn.Conv2d):
    """`nn.Conv2d`, faster if it has one group and pads all sides alike, by reflection or with zeros."""

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, h, w) as `nn.Conv2d` does; H and W must exceed a reflecting padding."""
        weight = self.weight  # read once: under spectral norm each access runs a power iteration
        if not (_has_supported_options(self) and kernels_apply(image, weight)):
            return self._conv_forward(image, weight, self.bias)
        padding = int(self.padding[0])
        if self.padding_mode == "reflect":
            image, padding = pad(image, (padding,) * 4, mode="reflect"), 0
        implementation = self._faster_implementation(image, weight, padding)
        if implementation is None:
            return conv2d(image, weight, self.bias, self.stride, padding)
        return _add_bias(implementation(image, weight), self.bias)

    def _faster_implementation(self, image: Tensor, weight: Tensor, padding: int) -> Implementation | None:
        """Return an implementation that is faster than torch's, or None; `padding` is by zeros."""
        kernels, channels, *taps = weight.shape
        if taps == [1, 1]:
            return None
        if any(side + 2 * padding < length for side, length in zip(image.shape[2:], taps, strict=True)):
            return None  # torch raises an error that says what is wrong
        if self.stride == (2, 2):
            if padding == 1 and gemm_conv.is_faster(image.shape[0] * image.shape[2] * image.shape[3] // 4, weight):
                return gemm_conv.conv_stride2
            return partial(conv_stride2_from_one_channel, padding=padding) if channels == 1 else None
        if self.stride != (1, 1):
            return None
        if kernels == 1:
            implementation = convolve_to_one_channel
        elif channels == 1:
            implementation = convolve_from_one_channel
        elif is_faster(image, weight, padding):
            implementation = convolve
        else:
            return None
        return (
            implementation if padding == 0 else lambda image, weight: implementation(pad(image, (padding,) * 4), weight)
        )


class TransposedConvolution(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, faster if its kernel is 4×4, its stride 2 and its padding 1."""

    def forward(self, image: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, K, h, w) as `nn.ConvTranspose2d` does."""
        weight = self.weight
        is_doubling = (self.kernel_size, self.stride, self.padding, self.output_padding) == DOUBLING
        if is_doubling and output_size is None and _has_supported_options(self) and kernels_apply(image, weight):
            if weight.shape[1] == 1:
                return _add_bias(transposed_conv_to_one_channel(image, weight), self.bias)
            if gemm_conv.is_faster(image.shape[0] * image.shape[2] * image.shape[3], weight):
                return _add_bias(gemm_conv.transposed_conv(image, weight), self.bias)
        return super().forward(image, output_size)


class UpsampleConvolution(nn.Sequential):
    """Nearest-neighbour `nn.Upsample` by 2, a reflecting `nn.Conv2d` of kernel 3 or 5, and any further layers."""

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, 2H, 2W)."""
        _, convolution, *others = self
        assert isinstance(convolution, nn.Conv2d)
        is_plain = is_parametrized(convolution) or min(image.shape[-2:]) < 2  # reading a parametrised weight changes it
        if is_plain or not kernels_apply(image, convolution.weight):
            return super().forward(image)
        features = _add_bias(upsample_and_convolve(image, convolution.weight), convolution.bias)
        for layer in others:
            features = layer(features)
        return features


FASTER: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: Convolution, nn.ConvTranspose2d: TransposedConvolution}


def _has_supported_options(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether the faster implementations support a layer's options."""
    return (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode in ("zeros", "reflect")
        and isinstance(layer.padding, tuple)  # not "same", nor "valid"
        and len(set(layer.padding)) == 1
    )


def kernels_apply(image: Tensor, weight: Tensor) -> bool:
    """Whether a layer may choose an implementation: a batch on the CPU, float32 or float64, no autocast, no tracing."""
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
def twice_differentiable() -> Iterator[None]:
    """Use torch's own implementations within the block: the others are differentiable only once."""
    token = _kernels_enabled.set(False)
    try:
        yield
    finally:
        _kernels_enabled.reset(token)


def accelerate(network: nn.Module) -> nn.Module:
    """Have the layers of a network choose; return the network, whose weights and names stay.

    Layers keep hooks and may be used twice. Weights that are parametrised already, as by a spectral norm, do not take
    part: such a norm comes afterwards.
    """
    for layer in network.modules():
        if type(layer) in FASTER:
            layer.__class__ = FASTER[type(layer)]
        elif type(layer) is nn.Sequential and _is_upsample_convolution(layer):
            layer.__class__ = UpsampleConvolution
    return network


def torch_layers(network: nn.Module) -> nn.Module:
    """Undo `accelerate`: have layers compute as torch does; return the network."""
    torch_classes = {faster: plain for plain, faster in FASTER.items()} | {UpsampleConvolution: nn.Sequential}
    for layer in network.modules():
        layer.__class__ = torch_classes.get(type(layer), type(layer))
    return network


def _is_upsample_convolution(layers: nn.Sequential) -> bool:
    """Whether layers begin with what `UpsampleConvolution` computes at once."""
    if len(layers) < 2 or not isinstance(layers[0], nn.Upsample) or type(layers[1]) not in (nn.Conv2d, Convolution):
        return False
    repeat, convolution = layers[0], layers[1]
    return (
        (repeat.mode, repeat.scale_factor) == ("nearest", 2)
        and convolution.padding_mode == "reflect"
        and (convolution.kernel_size, convolution.padding) in (((3, 3), (1, 1)), ((5, 5), (2, 2)))
        and (convolution.stride, convolution.dilation, convolution.groups) == ((1, 1), (1, 1), 1)
    )


def _add_bias(features: Tensor, bias: Tensor | None) -> Tensor:
    return features if bias is None else features + bias[:, None, None]
