"""How much of a head is trained on along the axis that is sliced: a length that both contrasts share, from one end.

That end is the crown for axial slices and the front for coronal ones: there every scan of a whole brain begins, and
where it stops is the scanner operator's choice. Sagittal slices have no such end: there the range lies about the
head's middle.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.fingerprint import FAIR_SHARE

ENDS = {"axial": "below the crown", "coronal": "behind the front of the head", "sagittal": "about the head's middle"}
AGREE = 1.1  # times the shorter typical length: contrasts that differ by less show the same for all that matters


@dataclass(frozen=True)
class Coverage:
    """The range of a run.

    Attributes:
        axis: Along which slices are cut.
        mm: How long the range is; None for all that each volume shows.
        shown_mm: Contrast -> the median length of head that its training volumes show along that axis.
    """

    axis: str
    mm: float | None = None
    shown_mm: Mapping[str, float] | None = None

    def bounds(self, head_slices: Sequence[int], slice_mm: float) -> tuple[float, float]:
        """Return the first and the last slice that lie in the range, of a volume's; infinite where there is no end.

        Args:
            head_slices: The first and the last slice of the head (`head_slices`), along R, A or S.
            slice_mm: The distance of two slices.
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
        """Return which of a volume's slices, (N,) indices along the axis, lie in the range, as (N,) bool."""
        low, high = self.bounds(head_slices, slice_mm)
        return (np.asarray(positions) >= low) & (np.asarray(positions) <= high)

    def __str__(self) -> str:
        return "all that each volume shows" if self.mm is None else f"the {self.mm:.0f} mm {ENDS[self.axis]}"


WHOLE = Coverage("axial")  # all that each volume shows, whatever the axis


def head_slices(foreground: np.ndarray) -> tuple[int, int]:
    """Return the first and the last slice of an (N, H, W) mask that shows a head, not a speck or its very tip.

    Those with less than `FAIR_SHARE` of what the fullest slice has do not count.
    """
    areas = np.count_nonzero(foreground, axis=(1, 2))
    shown = np.flatnonzero((areas >= FAIR_SHARE * areas.max()) & (areas > 0))
    return (int(shown[0]), int(shown[-1])) if len(shown) else (0, len(areas) - 1)


def typical_lengths(lengths_mm: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median length of head by contrast; contrasts without any are left out."""
    return {contrast: float(np.median(lengths)) for contrast, lengths in lengths_mm.items() if len(lengths)}


def shared_length(typical_mm: Mapping[str, float]) -> float | None:
    """Return the length in mm that all contrasts' typical volumes show; None where they agree as they are."""
    shortest = min(typical_mm.values())
    return round(shortest, 1) if max(typical_mm.values()) > AGREE * shortest else None


def pack_histograms(counts: np.ndarray) -> str:
    """Return histograms (N, B) of whole numbers below 2^32 as compressed text, for JSON."""
    return base64.b85encode(zlib.compress(counts.astype("<u4").tobytes(), 1)).decode()


def unpack_histograms(text: str, bins: int) -> np.ndarray:
    """Return what `pack_histograms` was given, as (N, bins) int64."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), "<u4").reshape(-1, bins).astype(np.int64)
