"""Image-to-image networks of `monai.networks.nets` as generators, with tanh at the end."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.networks import nets
from torch import Tensor, nn

from networks.blocks import as_group_norms, require_size
from networks.output import in_full_precision, with_offset

IMAGE_ARGUMENTS = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}  # arguments that every network gets


def _product_of_strides(arguments: Mapping[str, Any]) -> int:
    return math.prod(max(stride) if isinstance(stride, list | tuple) else stride for stride in arguments["strides"])


@dataclass(frozen=True)
class MonaiNetwork:
    """What is to be known of a network of MONAI."""

    last: str  # name of the layer that gives the image, which is computed in single precision
    stride: Callable[[Mapping[str, Any]], int]  # from the arguments to what height and width must be multiples of
    defaults: Mapping[str, Any] = field(default_factory=dict)  # where they differ from MONAI's, or there are none there
    fixed: Mapping[str, Any] = field(default_factory=dict)  # what must be as it is here, besides `IMAGE_ARGUMENTS`


LEVELS = {"channels": (32, 64, 128, 256, 512), "strides": (2, 2, 2, 2)}
KERNELS = {"kernel_size": (3,) * 5, "strides": (1, 2, 2, 2, 2), "upsample_kernel_size": (2, 2, 2, 2)}
NO_DROPOUT = {"dropout_prob_down": None, "dropout_prob_up": (None, 0.0)}
BACKBONE = {"backbone": "efficientnet-b0"}
SINGLE = {"deep_supervision": False}
# Without UNETR, which takes one size of images, and SwinUNETR, which the meta device of dry runs cannot build.
NETWORKS = {
    "AttentionUnet": MonaiNetwork("model.2", _product_of_strides, LEVELS),
    "BasicUNet": MonaiNetwork("final_conv", lambda _: 16),
    "BasicUNetPlusPlus": MonaiNetwork("final_conv_0_4", lambda _: 16, fixed=SINGLE),
    "DynUNet": MonaiNetwork("output_block", _product_of_strides, KERNELS, SINGLE),
    "FlexibleUNet": MonaiNetwork("segmentation_head", lambda _: 32, BACKBONE, {"pretrained": False}),
    "SegResNet": MonaiNetwork(
        "conv_final", lambda arguments: 2 ** (len(arguments.get("blocks_down", (1, 2, 2, 4))) - 1), {"init_filters": 32}
    ),
    "UNet": MonaiNetwork("model.2", _product_of_strides, {**LEVELS, "num_res_units": 2}),
    "VNet": MonaiNetwork("out_tr", lambda _: 16, NO_DROPOUT),
}


class MonaiGenerator(nn.Module):
    """A network of MONAI (a key of `NETWORKS`) to one channel, whose norms are per image, and tanh.

    Batch norms, whose statistics mean little at a batch size of 1 and mix real images with translations, become
    instance norms. Initial weights are MONAI's, and so are arguments that are neither given nor in `NETWORKS`; the
    constructor raises what the network's raises for them. Images have more than one channel where neighbours come with
    a slice.

    Height and width must be multiples of `stride`, else `forward` raises a ValueError.
    """

    def __init__(self, network: str, arguments: Mapping[str, Any] | None = None, *, in_channels: int = 1):
        super().__init__()
        kind = NETWORKS[network]
        arguments = {**kind.defaults, **(arguments or {}), **kind.fixed}
        self.name = network
        self.network = as_group_norms(
            getattr(nets, network)(**{**IMAGE_ARGUMENTS, "in_channels": in_channels}, **arguments)
        )
        self.network.set_submodule(kind.last, _FullPrecision(self.network.get_submodule(kind.last)))
        self.stride = kind.stride(arguments)

    def forward(self, image: Tensor, offset: Tensor | None = None) -> Tensor:
        """Translate (N, in_channels, H, W) in [-1, 1] to (N, 1, H, W) in that range; `offset` as in `output_image`."""
        require_size(image, f"MONAI's {self.name} of stride {self.stride}", self.stride)
        output = self.network(image)
        output = output[0] if isinstance(output, list) else output  # BasicUNetPlusPlus has a list of one
        return with_offset(output, offset)

    @property
    def last(self) -> nn.Module:
        """The layer that gives the image, before tanh."""
        return self.network.get_submodule(NETWORKS[self.name].last)


class _FullPrecision(nn.Module):
    """A layer that computes in the precision of its weights also under autocast; see `output.output_image`."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        """Map what the layer maps."""
        return in_full_precision(self.layer, features)


def argument_problems(
    network: str, arguments: Mapping[str, Any], size: int, in_channels: int = 1
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the arguments of a network for slices of `size` pixels a side; nothing is computed.

    Yields:
        The name of the argument, or "" where it is not known which, and the rule that it breaks.
    """
    kind, known = NETWORKS[network], inspect.signature(getattr(nets, network)).parameters
    set_here = {**IMAGE_ARGUMENTS, **kind.fixed}
    problems = []
    for name in arguments:
        if name in set_here:
            problems.append((name, f"is always {set_here[name]}; leave it out"))
        elif name not in known:
            nearest = difflib.get_close_matches(name, known.keys() - set_here.keys(), n=1)
            remedy = f"; the nearest is {nearest[0]}" if nearest else ""
            problems.append((name, f"not an argument of {network}{remedy}"))
    yield from problems
    if problems:
        return
    try:
        with torch.device("meta"):
            generator = MonaiGenerator(network, arguments, in_channels=in_channels)
            if size % generator.stride:
                yield "", f"preprocess.size = {size} must be a multiple of {generator.stride} for this {network}"
                return
            shape = tuple(generator.eval()(torch.zeros(1, in_channels, size, size)).shape)
    except Exception as error:  # whatever a constructor or a layer has against them
        yield "", f"{network} does not take them ({' '.join(str(error).split()) or type(error).__name__})"[:300]
        return
    if shape != (1, 1, size, size):
        yield "", f"{network} makes {shape} of slices (1, 1, {size}, {size}), and must keep their shape"
