"""The range of the head that is trained on along the sliced axis: a length that both contrasts cover.

Axial ranges are measured from the crown and coronal ones from the front of the head: every scan of a whole brain begins
there, while its other end is the scanner operator's choice. Sagittal ranges are centred on the head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.fingerprint import MIN_PLANE_SHARE

ENDS = {"axial": "below the crown", "coronal": "behind the front of the head", "sagittal": "about the head's middle"}
MAX_LENGTH_RATIO = 1.1  # longer typical length over shorter, up to which two contrasts count as equally covered


@dataclass(frozen=True)
class Coverage:
    """The range of the head that a run trains on."""

    axis: str  # orientation of the slices: "axial", "coronal" or "sagittal"
    mm: float | None = None  # length of the range; None for the whole volume
    # contrast -> median length of head in its training volumes along that axis
    shown_mm: Mapping[str, float] | None = None

    def bounds(self, head_slices: Sequence[int], slice_mm: float) -> tuple[float, float]:
        """Return the first and last slice of a volume in the range; infinite where the range has no end.

        `head_slices` are the first and last slice of the head, along R, A or S.
        """
        first, last = head_slices
        if self.mm is None:
            return -np.inf, np.inf
        count = max(1, round(self.mm / slice_mm))
        if self.axis != "sagittal":
            return last - count + 1, np.inf
        margin = (last - first + 1 - count) // 2
        return (first + margin, first + margin + count - 1) if margin > 0 else (-np.inf, np.inf)

    def select(self, positions: np.ndarray, head_slices: Sequence[int], slice_mm: float) -> np.ndarray:
        """Return as (N,) bool which of the (N,) slice indices along the axis lie in the range."""
        low, high = self.bounds(head_slices, slice_mm)
        return (np.asarray(positions) >= low) & (np.asarray(positions) <= high)

    def __str__(self) -> str:
        return "all that each volume shows" if self.mm is None else f"the {self.mm:.0f} mm {ENDS[self.axis]}"


FULL_COVERAGE = Coverage("axial")  # whole volumes, whatever the axis


def head_slices(foreground: np.ndarray) -> tuple[int, int]:
    """Return the first and last slice of an (N, H, W) mask that show the head.

    Slices with less than `MIN_PLANE_SHARE` of the fullest slice's foreground (specks, the very tip) do not count.
    """
    areas = np.count_nonzero(foreground, axis=(1, 2))
    occupied = np.flatnonzero((areas >= MIN_PLANE_SHARE * areas.max()) & (areas > 0))
    return (int(occupied[0]), int(occupied[-1])) if len(occupied) else (0, len(areas) - 1)


def typical_lengths(lengths_mm: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median length of head by contrast; contrasts without any volume are left out."""
    return {contrast: float(np.median(lengths)) for contrast, lengths in lengths_mm.items() if len(lengths)}


def shared_length(typical_mm: Mapping[str, float]) -> float | None:
    """Return the length in mm that all contrasts' typical volumes cover; None where they are about equal."""
    shortest = min(typical_mm.values())
    return round(shortest, 1) if max(typical_mm.values()) > MAX_LENGTH_RATIO * shortest else None
