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
OUTER = len(LEVELS) - 1  # slices on either side that a lookup sees, one for each Gaussian, the wider ones farther off
ACROSS_MM = tuple(math.sqrt(3) * sd for sd in (6.0, 16.0))  # how far they lie from the slice
ACROSS_WEIGHT = 1 / 6  # of each, by three-point Gauss-Hermite quadrature
LARGEST = 0.97  # of what a start gives before the network has learnt: at 1, tanh has no slope
AIR_LEVEL = -0.96  # of the narrower Gaussian's mean: below it lies air, some 10 mm from a head and farther
DEFAULT_SHARE = 0.25  # of the correction in an evaluated translation, where no validation has chosen it
LAYERS = (nn.Conv2d, nn.ConvTranspose2d)


class ContextLookup(nn.Module):
    """A table from an intensity and its surroundings to an intensity, which is not trained.

    The surroundings are the intensities blurred by two Gaussians, with -1 beyond a slice's border. The table is linear
    between its entries. Until `set_table` it returns 0.

    Args:
        in_volume: Whether the Gaussians reach across slices, too: images then come with two slices on either side of
            them, at `ACROSS_MM`.

    Attributes:
        table: `LEVELS`.
        blur_pixels: (2,), standard deviations of the Gaussians.
        across_weight: (), weight of each slice on either side; 0 in weights of releases that blurred within slices.
    """

    table: Tensor
    blur_pixels: Tensor
    across_weight: Tensor

    def __init__(self, in_volume: bool = False) -> None:
        super().__init__()
        self.in_volume = in_volume
        self.register_buffer("table", torch.zeros(LEVELS))
        self.register_buffer("blur_pixels", torch.ones(len(LEVELS) - 1))
        self.register_buffer("across_weight", torch.tensor(ACROSS_WEIGHT if in_volume else 0.0))

    def set_table(self, values: Tensor, blur_pixels: Sequence[float]) -> None:
        """Take over a table (`LEVELS`) and the standard deviations of its Gaussians in pixels."""
        self.table.copy_(values)
        self.blur_pixels.copy_(torch.tensor(blur_pixels))

    def forward(self, image: Tensor) -> Tensor:
        """Map the middle of (N, C, H, W) in [-1, 1] to (N, 1, H, W) in that range, differentiable by the image.

        Slices between the middle one and the outer two on either side, and all of a lookup within slices, do nothing. A
        single slice, C = 1, stands for those about it, too.
        """
        return in_full_precision(self._look_up, image)

    def is_air(self, image: Tensor) -> Tensor:
        """Return where next to nothing lies about the middle of (N, C, H, W), (N, 1, H, W) bool."""
        narrow = in_full_precision(
            lambda slices: _blurred(slices, self.blur_pixels[0].to(slices.dtype)), middle_slice(image)
        )
        return narrow < AIR_LEVEL

    def _look_up(self, slices: Tensor) -> Tensor:
        image, surroundings = middle_slice(slices), self._blurred_across(slices)
        sds = self.blur_pixels.to(image.dtype).unbind()
        channels = [image, *(_blurred(surrounding, sd) for surrounding, sd in zip(surroundings, sds, strict=True))]
        first, shares = torch.zeros_like(image, dtype=torch.long), []
        for axis, (channel, levels) in enumerate(zip(channels, LEVELS, strict=True)):
            brightness = channel.clamp(-1, 1) + 1
            if axis:
                units = brightness * ((levels - 1) / 2)
            else:
                even_units = 1 + (brightness - AIR_WIDTH) * ((levels - 2) / (2 - AIR_WIDTH))
                units = torch.where(brightness < AIR_WIDTH, brightness / AIR_WIDTH, even_units)
            lower = units.detach().nan_to_num(0.0).floor().clamp(max=levels - 2)  # NaN is no index; its share stays NaN
            first = first * levels + lower.long()
            shares.append(units - lower)
        entries = self.table.flatten().to(image.dtype)
        corners = [entries[first + offset] for offset in CORNERS]
        for share in shares:  # linear between two halves of the corners, axis by axis
            low, high = corners[: len(corners) // 2], corners[len(corners) // 2 :]
            corners = [torch.lerp(*pair, share) for pair in zip(low, high, strict=True)]
        return corners[0].clamp(-1, 1)

    def _blurred_across(self, slices: Tensor) -> list[Tensor]:
        """Return the middle of (N, C, H, W) as each Gaussian blurs it across slices, (N, 1, H, W)."""
        middle = middle_slice(slices)
        if not self.in_volume or slices.shape[1] == 1:
            return [middle] * OUTER
        channels = [slices[:, channel : channel + 1] for channel in range(slices.shape[1])]
        outer = [(channels[OUTER - 1 - number], channels[number - OUTER]) for number in range(OUTER)]
        weight = self.across_weight.to(slices.dtype)
        return [middle + weight * (before + after - 2 * middle) for before, after in outer]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load a state; those of releases that blurred within slices have no weight of others."""
        state_dict.setdefault(f"{prefix}across_weight", torch.tensor(0.0))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class LookupStart(nn.Module):
    """A generator that corrects a context lookup: x -> tanh(artanh(lookup(x)) + a tenth of the network before tanh).

    The network's last layer begins at zero, so that before the first step this is the lookup (within `LARGEST`). In
    evaluation mode the result is a mean of that and the lookup: their errors differ, so that it has a smaller one than
    either. In the air, where losses hardly tell what a network draws, it is the lookup.

    Args:
        network: A generator (N, C, H, W) -> (N, 1, H, W) that takes an `offset` before its tanh and has a `last` layer.
        neighbour_mm: How far from the slice those on either side lie that the lookup sees, and it alone, rising; empty
            for a lookup within the slice (`ContextLookup`).

    Attributes:
        stride: That of the network.
        correction_share: (), share of the corrected translation in that mean, in [0, 1]; chosen in validation.
    """

    correction_share: Tensor

    def __init__(self, network: nn.Module, neighbour_mm: Sequence[float] = ()):
        super().__init__()
        self.network, self.lookup = network, ContextLookup(in_volume=bool(neighbour_mm))
        self.stride, self.neighbour_mm = cast(int, network.stride), tuple(neighbour_mm)
        self.register_buffer("correction_share", torch.tensor(DEFAULT_SHARE))
        self.feature_channels = getattr(network, "feature_channels", [])  # see `patch_features.FeatureGenerator`
        *_, last = (layer for layer in cast(nn.Module, network.last).modules() if isinstance(layer, LAYERS))
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Translate the middle slice of (N, C, H, W) in [-1, 1] to (N, 1, H, W); raises what the network raises."""
        expected = self.lookup(image)
        corrected = self.network(self._network_slices(image), torch.atanh(expected.clamp(-LARGEST, LARGEST)))
        if self.training:
            return corrected
        mean = torch.lerp(expected, corrected, self.correction_share.to(expected.dtype))
        return torch.where(self.lookup.is_air(image), expected, mean)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return what PatchNCE compares; see `patch_features.FeatureGenerator`."""
        return cast(FeatureGenerator, self.network).features(self._network_slices(image))

    def _network_slices(self, image: Tensor) -> Tensor:
        """Return what the network sees of an image: all but the lookup's slices."""
        return image[:, OUTER:-OUTER] if self.lookup.in_volume and image.shape[1] > 1 else image

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
