"""Generators that see a slice with its neighbours (2.5D)."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from networks.patch_features import FeatureGenerator


class NeighbourGenerator(nn.Module):
    """A generator of slices from the slice and neighbours on either side of it, as channels in their order.

    Of the C = 1 + 2 (n + m) channels of the network, (N, C, H, W) -> (N, 1, H, W), `neighbours` n on either side lie
    next to the slice, and m others `neighbour_mm` from it, rising. An image of one channel, which has no neighbours, is
    repeated in all channels: so a cycle translates a translation back, as public CycleGANs in 2.5D do.
    """

    def __init__(self, network: nn.Module, neighbours: int, neighbour_mm: Sequence[float] = ()):
        super().__init__()
        self.network, self.neighbours, self.neighbour_mm = network, neighbours, tuple(neighbour_mm)
        self.channels = 1 + 2 * (neighbours + len(neighbour_mm))
        self.stride = cast(int, network.stride)
        self.feature_channels = getattr(network, "feature_channels", [])  # see `patch_features.FeatureGenerator`

    def forward(self, image: Tensor) -> Tensor:
        """Translate the middle of (N, C, H, W), or (N, 1, H, W), to (N, 1, H, W); raises as the network does."""
        return self.network(with_channels(image, self.channels))

    def features(self, image: Tensor) -> list[Tensor]:
        """Return what PatchNCE compares; see `patch_features.FeatureGenerator`."""
        return cast(FeatureGenerator, self.network).features(with_channels(image, self.channels))


def with_channels(image: Tensor, channels: int) -> Tensor:
    """Return (N, channels, H, W), in which (N, 1, H, W) is repeated."""
    return image.expand(-1, channels, -1, -1)


def middle_slice(image: Tensor) -> Tensor:
    """Return the slice (N, 1, H, W) in the middle of its neighbours (N, C, H, W)."""
    middle = image.shape[1] // 2
    return image[:, middle : middle + 1]
