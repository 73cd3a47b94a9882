"""Stacks of the training cohort's cached slices, with where they lie, for what is fitted to whole heads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.loader import SliceBank
from pipeline.data.stored_slices import StoredCase, decode
from transforms.context_lookup import BLUR_MM, blurred_across
from transforms.slice_chain import PreprocessSettings
from transforms.slices import AXES

SAMPLE_MM = 2.0  # voxels are thinned out to about this distance
MAX_HEADS, MAX_SLICES = 20, 2000  # of a contrast: so many heads, or more where they have fewer slices (pictures)
SLICE_SIZE = 256  # pixels along a side of those slices; of larger ones there are fewer


@dataclass(frozen=True)
class SliceStack:
    """Slices of one head in one contrast."""

    read: Callable[[], np.ndarray]  # returns them, and those about them, (M, H, W) float32 in [-1, 1]
    positions_mm: np.ndarray  # (N,), where they lie across the slices
    pixel_mm: tuple[float, float]  # height and width of a pixel
    first: int = 0  # index of the first of them in what `read` returns
    # whether air lies before and after what `read` returns; else its ends go on as they are
    air_beyond: tuple[bool, bool] = (False, False)
    in_volume: bool = True  # whether a lookup sees the slices on either side of a slice, too

    def slices(self) -> np.ndarray:
        """Return the slices, (N, H, W) float32 in [-1, 1]."""
        return self._cut(self.read())

    def blurred_across(self) -> list[np.ndarray]:
        """Return the slices as `transforms.context_lookup.blurred_across` blurs them, (N, H, W) each."""
        if not self.in_volume:
            return [self.slices()] * len(BLUR_MM)
        return [self._cut(blurred) for blurred in blurred_across(self.read(), self.slice_mm, self.air_beyond)]

    def _cut(self, slices: np.ndarray) -> np.ndarray:
        return slices[self.first : self.first + len(self.positions_mm)]

    @property
    def slice_mm(self) -> float:
        """Distance of slices; 1 for a single one."""
        return float(np.diff(self.positions_mm).min()) if len(self.positions_mm) > 1 else 1.0

    @property
    def steps(self) -> tuple[int, int]:
        """Every how many slices, and every how many pixels, voxels are used."""
        return max(1, int(SAMPLE_MM / self.slice_mm)), max(1, int(SAMPLE_MM / max(self.pixel_mm)))

    @property
    def sample_mm(self) -> tuple[float, float, float]:
        """Distances of the voxels that are used, of slices, rows and columns."""
        slices, pixels = self.steps
        return slices * self.slice_mm, pixels * self.pixel_mm[0], pixels * self.pixel_mm[1]


def stored_stacks(
    stored: Mapping[str, Sequence[StoredCase]], settings: PreprocessSettings
) -> dict[str, list[SliceStack]]:
    """Return the stacks of cached training slices by contrast, of few enough heads, evenly chosen."""
    return {
        contrast: [_stored_stack(entry, settings) for entry in _evenly_chosen(entries, settings.size)]
        for contrast, entries in stored.items()
    }


def _evenly_chosen(entries: Sequence[StoredCase], size: int) -> list[StoredCase]:
    slices = sum(entry.count for entry in entries) / max(1, len(entries))
    most_slices = MAX_SLICES * min(1.0, (SLICE_SIZE / size) ** 2)
    count = min(len(entries), max(MAX_HEADS, int(most_slices / max(1, slices))))
    return [entries[index * len(entries) // count] for index in range(count)]


def _stored_stack(entry: StoredCase, settings: PreprocessSettings) -> SliceStack:
    rows_mm, columns_mm = np.delete(entry.statistics.spacing_mm, AXES[settings.axis]).tolist()
    if settings.spacing_mm is not None:
        rows_mm = columns_mm = settings.spacing_mm[0]
    bank, positions_mm = SliceBank([entry]), np.asarray(entry.positions) * entry.statistics.slice_mm
    return SliceStack(
        lambda: decode(bank.volume(0)), positions_mm, (rows_mm, columns_mm), entry.first, entry.air_beyond
    )
