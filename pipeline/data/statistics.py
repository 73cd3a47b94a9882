"""Statistics of volumes and of training cohorts, as the slice cache, checkpoints and MLflow models keep them.

`to_json` gives JSON's types under the keys of those files; `from_json` ignores keys that it does not know.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

FINGERPRINT_KEY = "likeness"  # in files


@dataclass(frozen=True)
class _Record:
    """Values that a JSON object holds under the names of the fields; those that are None are left out."""

    def to_json(self) -> dict[str, Any]:
        """Return the values in JSON's types."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the values that `to_json` gave; raises TypeError where a key is missing."""
        return cls(**{item.name: content[item.name] for item in fields(cls) if item.name in content})


@dataclass(frozen=True)
class Fingerprint(_Record):
    """A volume in a few numbers; see `pipeline.data.fingerprint.volume_fingerprint`. Sizes are along R, A, S."""

    core: list[float]  # 64 quantiles of the intensities deep in the head, standardised
    head: list[float]  # 64 quantiles of the whole head's, in [-1, 1]
    spacing_mm: list[float]  # voxel size of the file
    field_mm: list[float]  # extent of the prepared volume
    head_mm: list[float]  # extent of its head


@dataclass(frozen=True)
class CohortFingerprint(_Record):
    """A cohort in a few numbers; see `pipeline.data.fingerprint.cohort_fingerprint`.

    `*_reach` is the 95th percentile of a member's distance from the mean of the others. Sizes are (low, high) along
    R, A, S, the range that nine of ten members lie in; `coverage_mm` is the length of the head that was trained on.
    """

    core: list[float]
    core_reach: float
    head: list[float]
    head_reach: float
    spacing_mm: list[list[float]]
    field_mm: list[list[float]]
    head_mm: list[list[float]]
    coverage_mm: float | None = None


@dataclass(frozen=True)
class CaseStatistics(_Record):
    """Statistics of a volume in the slice cache."""

    low: float  # intensity that became -1
    high: float  # and 1
    integer: bool  # whether the file holds whole numbers
    spacing_mm: list[float]  # voxel size of the file (R, A, S)
    histogram: list[int]  # of the foreground of the slices used, over [-1, 1]
    slice_histograms: str  # one per slice of the volume, see `pipeline.data.stored_slices.pack_histograms`
    head_slices: tuple[int, int]  # first and last slice of the head
    slice_mm: float  # distance between slices
    fingerprint: Fingerprint | None = None  # None for pictures and tiny heads

    def to_json(self) -> dict[str, Any]:
        """Return the statistics in JSON's types."""
        content = asdict(self) | {"head_slices": list(self.head_slices)}
        return content | {FINGERPRINT_KEY: content.pop("fingerprint")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the statistics that `to_json` gave; raises KeyError or TypeError where a key is missing."""
        fingerprint, (first, last) = content[FINGERPRINT_KEY], content["head_slices"]
        fingerprint = None if fingerprint is None else Fingerprint.from_json(fingerprint)
        return super().from_json({**content, "head_slices": (first, last), "fingerprint": fingerprint})


@dataclass(frozen=True)
class ContrastStatistics(_Record):
    """Statistics of a contrast's training cohort.

    An MLflow model keeps `low`, `high` and `integer` of its target alone, and otherwise the fingerprint.
    """

    low: float = math.nan  # median intensity that became -1, in the files' units
    high: float = math.nan  # and 1
    integer: bool = False  # whether all files hold whole numbers
    spacing_mm: list[float] = field(default_factory=list)  # median voxel size (R, A, S)
    histogram: list[int] = field(default_factory=list)  # sum of the cases' foreground histograms over [-1, 1]
    cases: int = 0
    slices: int = 0
    # what volumes to translate are compared with; None for pictures, and where it was not kept. It describes whole
    # volumes, since these are translated.
    fingerprint: CohortFingerprint | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the statistics in JSON's types."""
        content = asdict(self)
        del content["fingerprint"]
        return content | ({} if self.fingerprint is None else {FINGERPRINT_KEY: self.fingerprint.to_json()})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the statistics that `to_json` gave, or an MLflow model's part of them."""
        fingerprint = content.get(FINGERPRINT_KEY)
        fingerprint = None if fingerprint is None else CohortFingerprint.from_json(fingerprint)
        return super().from_json({**content, "fingerprint": fingerprint})
