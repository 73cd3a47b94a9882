"""A context lookup as a network; see `transforms.context_lookup`."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from networks.neighbours import middle_slice
from networks.output import in_full_precision

LEVELS = (13, 6, 6)  # entries of a table along the intensity and each blurred intensity
AIR_WIDTH = 0.02  # of the first interval of the intensity; the others are even
_STRIDES = [math.prod(LEVELS[axis + 1 :]) for axis in range(len(LEVELS))]
CORNERS = [
    sum(map(math.prod, zip(offsets, _STRIDES, strict=True))) for offsets in product((0, 1), repeat=len(LEVELS))
]  # about an entry, flat
OUTER = len(LEVELS) - 1  # slices on either side that a lookup sees, one for each Gaussian, the wider ones farther off
ACROSS_MM = tuple(math.sqrt(3) * sd for sd in (6.0, 16.0))  # how far they lie from the slice
ACROSS_WEIGHT = 1 / 6  # of each, by three-point Gauss-Hermite quadrature
AIR_LEVEL = -0.96  # of the narrower Gaussian's mean: below it lies air, some 10 mm from a head and farther


class ContextLookup(nn.Module):
    """A table from an intensity and its surroundings to an intensity, which is not trained.

    The surroundings are the intensities blurred by two Gaussians, with -1 beyond a slice's border. The table is linear
    between its entries. Until `set_table` it returns 0. If it is `in_volume`, the Gaussians reach across slices, too:
    images then come with two slices on either side of them, at `ACROSS_MM`.

    Buffers: `table` (`LEVELS`); `blur_pixels` (2,), standard deviations of the Gaussians; `across_weight` (), of each
    slice on either side, 0 in weights of releases that blurred within slices.
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
