"""The fixed slices of a validation, and what the failure detectors are given of them and their translations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.metrics.failure_detectors import Translated, depth_layers, spread_evenly
from pipeline.metrics.hidden_information import NOISE_SD, Cycled
from transforms.slices import centre_fit

CYCLED_SLICES = 12  # slices of a direction that are translated back, with noise and without
NOISE_SEED = 0  # the same noise in every validation


@dataclass(frozen=True)
class FixedSlices:
    """The chosen slices of one validation scan."""

    label: str  # name of the subject
    source: np.ndarray  # (K, H, W) in [-1, 1], as the network takes them
    field_of_view: tuple[int, int]  # (h, w) of a slice before padding
    foreground: np.ndarray  # (K, h, w) bool, of the real target, or of the source without pairs
    real: np.ndarray | None  # (K, h, w) in [-1, 1], or None without pairs
    head: np.ndarray  # (K, h, w) bool, the source's foreground
    pixel_mm: tuple[float, float]  # height and width of a pixel
    stacks: np.ndarray | None = None  # (K, C, H, W), the slices with their neighbours; None where networks see none

    @classmethod
    def from_arrays(cls, label: str, arrays: Mapping[str, np.ndarray]) -> "FixedSlices":
        """Make an instance from arrays by field name; "real" and "stacks" may be missing."""
        numbers: dict[str, Any] = {name: tuple(arrays[name].tolist()) for name in ("field_of_view", "pixel_mm")}
        return cls(label=label, **{"real": None, **arrays, **numbers})

    @property
    def input(self) -> np.ndarray:
        """(K, C, H, W), what the networks take: the slices, with their neighbours where there are any."""
        return self.source[:, None] if self.stacks is None else self.stacks

    @cached_property
    def layers(self) -> np.ndarray:
        """(K, h, w), `pipeline.metrics.failure_detectors.depth_layers` of the source's head."""
        return depth_layers(self.head)

    def unpadded(self, slices: np.ndarray) -> np.ndarray:
        """Return (K, H, W) slices without their padding."""
        return centre_fit(slices, *self.field_of_view, fill=-1)


def detector_input(fixed: FixedSlices, translation: np.ndarray) -> Translated:
    """Return a padded translation (K, H, W) as input of the detectors."""
    images = (fixed.unpadded(fixed.source), fixed.unpadded(translation))
    return Translated(*images, fixed.head, fixed.layers, fixed.pixel_mm, fixed.real)


def cycled_with_noise(
    scans: Sequence[tuple[FixedSlices, np.ndarray]], inverse: Callable[[np.ndarray], np.ndarray]
) -> list[Cycled]:
    """Translate `CYCLED_SLICES` evenly spread slices back, as they are and with noise of SD `NOISE_SD`.

    `scans` are fixed slices and their padded translations (K, H, W), which `inverse` translates back.
    """
    random = np.random.default_rng(NOISE_SEED)
    chosen = spread_evenly([len(translation) for _, translation in scans], CYCLED_SLICES)
    cycled = []
    for number, (fixed, translation) in enumerate(scans):
        index = [position for scan, position in chosen if scan == number]
        if not index:
            continue
        slices = translation[index]
        noisy = np.clip(slices + random.normal(0, NOISE_SD, slices.shape), -1, 1).astype(np.float32)
        source, clean, from_noisy = map(fixed.unpadded, (fixed.source[index], inverse(slices), inverse(noisy)))
        cycled.append(Cycled(source, clean, from_noisy, fixed.head[index]))
    return cycled
