"""Slices on disk: uint16 levels of [-1, 1] in a .npy file, with what is known of the volume they come from."""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.data.case import Case
from pipeline.data.coverage import Coverage
from pipeline.data.statistics import CaseStatistics
from transforms.neighbours import cut_ends

LEVELS = 65535  # uint16: rounding -1..1 to it is 107 dB
BINS = 256  # bins of a histogram


@dataclass(frozen=True)
class StoredSlices:
    """The cached slices of an image."""

    case: Case
    path: Path  # the .npy file, uint16 (N, size, size)
    # indices in the volume of the slices used, ascending: all occupied ones, or those in a range
    positions: Sequence[int]
    first: int = 0  # index in the file of the first slice used; the others follow it
    stored: int | None = None  # number of slices in the file; None if all are used
    slice_mm: float = 1.0  # distance between slices
    # whether the volume goes on before the file's first slice and after its last, the head having ended
    air_beyond: tuple[bool, bool] = (False, False)

    @property
    def count(self) -> int:
        """Number of slices used."""
        return len(self.positions)

    @property
    def file_count(self) -> int:
        """Number of slices in the file."""
        return self.count if self.stored is None else self.stored

    def cut(self, coverage: Coverage, head: tuple[int, int], slice_mm: float) -> Self:
        """Return the slices in a range, without copying; there may be none.

        `head` and `slice_mm` (first and last slice, and distance) are of the volume on whose grid the slices lie.
        """
        in_range = np.flatnonzero(coverage.select(np.asarray(self.positions), head, slice_mm))  # contiguous
        positions = [self.positions[index] for index in in_range.tolist()]
        first = self.first + int(in_range[0]) if len(in_range) else self.first
        return replace(self, positions=positions, first=first, stored=self.file_count)


@dataclass(frozen=True)
class StoredCase(StoredSlices):
    """A case with cached slices, and the statistics of those used."""

    statistics: CaseStatistics = field(kw_only=True)

    def within(self, coverage: Coverage) -> "StoredCase":
        """Return the case restricted to the slices in a range, without copying; `count` may become 0."""
        if coverage.mm is None:
            return self
        head, slice_mm = self.statistics.head_slices, self.statistics.slice_mm
        histograms = unpack_histograms(self.statistics.slice_histograms)
        in_range = coverage.select(np.arange(len(histograms)), head, slice_mm)
        statistics = replace(self.statistics, histogram=histograms[in_range].sum(axis=0).tolist())
        return replace(self.cut(coverage, head, slice_mm), statistics=statistics)


@dataclass(frozen=True)
class StoredPair:
    """The same cached slices of two registered images."""

    first: StoredSlices
    second: StoredSlices  # on the first's grid
    rigid_transform: Sequence[Sequence[float]]  # (4, 4) from the first image to the second, in RAS millimetres

    @property
    def cases(self) -> tuple[Case, Case]:
        """The two images."""
        return self.first.case, self.second.case


def air_beyond(slices: np.ndarray, slice_mm: float, positions: np.ndarray, occupied: np.ndarray) -> tuple[bool, bool]:
    """Return whether a volume goes on before and after the slices used, the head having ended there by itself.

    `slices` are the volume's, (N, S, S) in [-1, 1]; `positions` the indices of those used, ascending, and `occupied` of
    all that show enough of this volume's head.
    """
    first, last = cut_ends(slices, slice_mm)
    before = first is None and 0 < positions[0] == occupied[0]
    after = last is None and occupied[-1] == positions[-1] < len(slices) - 1
    return bool(before), bool(after)


def encode(slices: np.ndarray) -> np.ndarray:
    """Return slices in [-1, 1] as uint16."""
    stored = np.empty(slices.shape, dtype=np.uint16)
    # Slice by slice, to stay in a core's cache.
    for target, image in zip(np.atleast_2d(stored), np.atleast_2d(slices), strict=True):
        levels = image + 1
        levels *= LEVELS / 2
        target[...] = np.rint(levels, out=levels)
    return stored


def decode(stored: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return stored uint16 slices as float32 in [-1, 1], in `out` where it is given."""
    slices = np.empty(stored.shape, dtype=np.float32) if out is None else out
    slices[...] = stored
    slices *= np.float32(2 / LEVELS)
    slices -= np.float32(1)
    return slices


def slice_histograms(slices: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Return a histogram (N, BINS) of each of the slices in [-1, 1] (N, S, S), inside a mask.

    The counts equal `np.histogram`'s: the bin width, 1/128, is a power of two, so bin indices are exact.
    """
    counts = np.zeros((len(slices), BINS + 1), dtype=np.int64)
    for row, image, mask in zip(counts, slices, foreground, strict=True):
        bins = np.floor(image[mask] * (BINS // 2)).astype(np.intp) + BINS // 2
        row += np.bincount(bins, minlength=BINS + 1)
    counts[:, -2] += counts[:, -1]  # the last bin includes its upper edge
    return counts[:, :-1]


def pack_histograms(counts: np.ndarray) -> str:
    """Return histograms (N, BINS) of whole numbers below 2^32 as compressed text, for JSON."""
    return base64.b85encode(zlib.compress(counts.astype("<u4").tobytes(), 1)).decode()


def unpack_histograms(text: str) -> np.ndarray:
    """Return the histograms that `pack_histograms` compressed, as (N, BINS) int64."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), "<u4").reshape(-1, BINS).astype(np.int64)
