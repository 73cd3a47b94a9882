"""A context lookup as a network, and as the start of a generator; see `transforms.context_lookup`."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from networks.neighbours import middle_slice
from networks.output import in_full_precision
from networks.patch_features import FeatureGenerator

LEVELS = (13, 6, 6)  # entries of a table along the intensity and each blurred intensity
AIR_WIDTH = 0.02  # of the first interval of the intensity; the others are even
_STRIDES = [math.prod(LEVELS[axis + 1 :]) for axis in range(len(LEVELS))]
CORNERS = [
    sum(map(math.prod, zip(offsets, _STRIDES, strict=True))) for offsets in product((0, 1), repeat=len(LEVELS))
]  # about an entry, flat
LARGEST = 0.97  # of what a start gives before the network has learnt: at 1, tanh has no slope
DEFAULT_SHARE = 0.5  # of the correction in an evaluated translation, where no validation has chosen it
LAYERS = (nn.Conv2d, nn.ConvTranspose2d)


class ContextLookup(nn.Module):
    """A table from an intensity and its surroundings to an intensity, which is not trained.

    The surroundings are the intensities blurred by two Gaussians within the slice, with -1 beyond its border. The table
    is linear between its entries. Until `set_table` it returns 0.

    Attributes:
        table: `LEVELS`.
        blur_pixels: (2,), standard deviations of the Gaussians.
    """

    table: Tensor
    blur_pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(LEVELS))
        self.register_buffer("blur_pixels", torch.ones(len(LEVELS) - 1))

    def set_table(self, values: Tensor, blur_pixels: Sequence[float]) -> None:
        """Take over a table (`LEVELS`) and the standard deviations of its Gaussians in pixels."""
        self.table.copy_(values)
        self.blur_pixels.copy_(torch.tensor(blur_pixels))

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, H, W) in [-1, 1] to the same shape and range, differentiable by the image."""
        return in_full_precision(self._look_up, image)

    def _look_up(self, image: Tensor) -> Tensor:
        channels = [image, *(_blurred(image, sd) for sd in self.blur_pixels.to(image.dtype).unbind())]
        first, shares = torch.zeros_like(image, dtype=torch.long), []
        for axis, (channel, levels) in enumerate(zip(channels, LEVELS, strict=True)):
            above = channel.clamp(-1, 1) + 1
            if axis:
                units = above * ((levels - 1) / 2)
            else:
                even = 1 + (above - AIR_WIDTH) * ((levels - 2) / (2 - AIR_WIDTH))
                units = torch.where(above < AIR_WIDTH, above / AIR_WIDTH, even)
            below = units.detach().nan_to_num(0.0).floor().clamp(max=levels - 2)  # NaN is no index; its share stays NaN
            first = first * levels + below.long()
            shares.append(units - below)
        entries = self.table.flatten().to(image.dtype)
        corners = [entries[first + offset] for offset in CORNERS]
        for share in shares:  # linear between two halves of the corners, axis by axis
            low, high = corners[: len(corners) // 2], corners[len(corners) // 2 :]
            corners = [torch.lerp(*pair, share) for pair in zip(low, high, strict=True)]
        return corners[0].clamp(-1, 1)


class LookupStart(nn.Module):
    """A generator that corrects a context lookup: x -> tanh(artanh(lookup(x)) + a tenth of the network before tanh).

    The network's last layer begins at zero, so that before the first step this is the lookup (within `LARGEST`). In
    evaluation mode the result is a mean of that and the lookup: their errors differ, so that it has a smaller one than
    either.

    Args:
        network: A generator (N, C, H, W) -> (N, 1, H, W) that takes an `offset` before its tanh and has a `last` layer.

    Attributes:
        stride: That of the network.
        correction_share: (), share of the corrected translation in that mean, in [0, 1]; chosen in validation.
    """

    correction_share: Tensor

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.lookup, self.stride = network, ContextLookup(), cast(int, network.stride)
        self.register_buffer("correction_share", torch.tensor(DEFAULT_SHARE))
        self.feature_channels = getattr(network, "feature_channels", [])  # see `patch_features.FeatureGenerator`
        *_, last = (layer for layer in cast(nn.Module, network.last).modules() if isinstance(layer, LAYERS))
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Translate (N, C, H, W) in [-1, 1], its middle slice, to (N, 1, H, W); raises what the network raises."""
        expected = self.lookup(middle_slice(image))
        corrected = self.network(image, torch.atanh(expected.clamp(-LARGEST, LARGEST)))
        if self.training:
            return corrected
        return torch.lerp(expected, corrected, self.correction_share.to(expected.dtype))

    def features(self, image: Tensor) -> list[Tensor]:
        """Return what PatchNCE compares; see `patch_features.FeatureGenerator`."""
        return cast(FeatureGenerator, self.network).features(image)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load a state; those of generators that were saved without a share have one of 1."""
        state_dict.setdefault(f"{prefix}correction_share", torch.tensor(1.0))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def start_of(generator: nn.Module) -> LookupStart | None:
    """Return the part of a generator that corrects a lookup; None where it starts from none."""
    return next((module for module in generator.modules() if isinstance(module, LookupStart)), None)


def lookup_of(generator: nn.Module) -> ContextLookup:
    """Return the lookup that a generator starts from; StopIteration where it starts from none."""
    return next(module for module in generator.modules() if isinstance(module, ContextLookup))


def _blurred(image: Tensor, sd: Tensor) -> Tensor:
    """Return images (N, 1, H, W) blurred by a Gaussian of `sd` () pixels, with -1 beyond the border."""
    rows, columns = (_gaussian_matrix(length, sd) for length in image.shape[-2:])
    along_rows = linear(image + 1, columns)  # not `@`, whose graph would not take any number of images
    return linear(along_rows.transpose(2, 3), rows).transpose(2, 3) - 1


def _gaussian_matrix(length: int, sd: Tensor) -> Tensor:
    """Return `transforms.context_lookup.gaussian_matrix`, in `sd`'s type and on its device; it is symmetric."""
    pixels = sd.new_ones(length).cumsum(0)  # not `arange`, of which a traced graph would keep the device
    total = sd * math.sqrt(2 * math.pi) * (1 + 2 * torch.exp(-2 * (math.pi * sd) ** 2))
    return torch.exp(((pixels - pixels[:, None]) / sd) ** 2 / -2) / total
