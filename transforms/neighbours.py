"""Which other slices of a volume go with a slice, as further channels of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Neighbours:
    """Slices on either side of a slice. As channels, all lie in their order, the slice in the middle.

    Attributes:
        adjacent: Number of slices next to it, on either side.
        distances_mm: Distances of those farther off, on either side, rising.
    """

    adjacent: int = 0
    distances_mm: tuple[float, ...] = ()

    @property
    def channels(self) -> int:
        """Number of slices with the one in the middle."""
        return 1 + 2 * (self.adjacent + len(self.distances_mm))

    def steps(self, slice_mm: float) -> np.ndarray:
        """Return how many slices each lies from the middle one, (channels,), rising, where slices lie `slice_mm` apart.

        Distances are rounded to whole slices, but to one at least.
        """
        far = [max(1, round(distance / slice_mm)) for distance in self.distances_mm]
        return np.array([*(-step for step in reversed(far)), *range(-self.adjacent, self.adjacent + 1), *far])

    def indices(self, middles: Sequence[int] | np.ndarray, count: int, slice_mm: float) -> np.ndarray:
        """Return the indices (N, channels) of slices and their neighbours among `count`, of which the ends repeat."""
        return (np.asarray(middles)[:, None] + self.steps(slice_mm)).clip(0, count - 1)


NO_NEIGHBOURS = Neighbours()
