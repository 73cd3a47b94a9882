"""Which other slices of a volume go with a slice, as further channels of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HEAD_LEVEL = -0.8  # on [-1, 1]; what is darker may be noise in air
LEAST_HEAD = 0.05  # of the most that a slice shows of the head: below it counts as none
CROWN_SHARE = 0.1  # of that most, in the outermost slice of a head that ends by itself: so much at most,
THICK_MM = 2.5  # slices so far apart are laid by hand, at any height; thinner ones rarely have empty ones beyond
CROWN_MM = 15.0  # or in thick slices the share of their distance in this: a crown is round


@dataclass(frozen=True)
class Neighbours:
    """Slices on either side of a slice. As channels, all lie in their order, the slice in the middle."""

    adjacent: int = 0  # number of slices next to it, on either side
    distances_mm: tuple[float, ...] = ()  # distances of those farther off, on either side, rising

    @property
    def channels(self) -> int:
        """Number of slices with the one in the middle."""
        return 1 + 2 * (self.adjacent + len(self.distances_mm))

    def steps(self, slice_mm: float) -> np.ndarray:
        """Return how many slices each lies from the middle one, (channels,), rising, where slices lie `slice_mm` apart.

        Distances are rounded to whole slices, but to one at least.
        """
        steps = [max(1, round(distance / slice_mm)) for distance in self.distances_mm]
        return np.array([*(-step for step in reversed(steps)), *range(-self.adjacent, self.adjacent + 1), *steps])

    def indices(self, middles: Sequence[int] | np.ndarray, ends: tuple[int, int], slice_mm: float) -> np.ndarray:
        """Return the indices (N, channels) of slices and their neighbours; beyond the `neighbour_ends` these repeat."""
        middle = np.asarray(middles)[:, None]
        return (middle + self.steps(slice_mm)).clip(np.minimum(ends[0], middle), np.maximum(ends[1], middle))


NO_NEIGHBOURS = Neighbours()


def cut_ends(slices: np.ndarray, slice_mm: float) -> tuple[int | None, int | None]:
    """Return the first and the last slice of a volume (N, H, W) in [-1, 1] that shows the head, where a scan cuts it.

    None stands for an end where the head grows small by itself, as at the crown, and for volumes that show none. Thin
    slices with empty ones beyond a cut come from a common space, whose end tells where a slice lies: they have no cut.
    """
    if slice_mm < THICK_MM:
        return None, None
    areas = (slices > HEAD_LEVEL).mean(axis=(1, 2))
    occupied = np.flatnonzero(areas > LEAST_HEAD * areas.max())
    if not len(occupied):
        return None, None
    most_at_crown = max(CROWN_SHARE, slice_mm / CROWN_MM) * areas.max()
    first, last = (int(end) if areas[end] > most_at_crown else None for end in occupied[[0, -1]])
    return first, last


def neighbour_ends(slices: np.ndarray, slice_mm: float) -> tuple[int, int]:
    """Return the first and last slice of a volume (N, H, W) in [-1, 1] that may stand beside others.

    Usually the volume's own ends. Where a scan cuts the head off and only empty slices lie beyond, it is the outermost
    slice that shows the head: a network would take the empty ones for air above a crown.
    """
    first, last = cut_ends(slices, slice_mm)
    return first or 0, len(slices) - 1 if last is None else last
