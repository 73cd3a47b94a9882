"""Outliers among the images of a contrast, by a robust rule that ignores small differences.

The modified z-score (Iglewicz and Hoaglin 1993) with a floor: the distance from the contrast's median, divided by
1.4826 times the median absolute deviation, flagged beyond 3.5. In a uniform cohort that deviation is 0, and any noise
would be flagged; therefore each quantity has a smallest departure that matters, below which nothing is flagged.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import median_abs_deviation

from pipeline.data.case import Case
from pipeline.exploration.image_statistics import BINS, ImageStatistics

LIMIT = 3.5
FEWEST = 5  # images of a contrast; fewer have no outliers
COMMON = 0.75  # the share of a contrast that must agree on an orientation for the others to stand out
DIRECTIONS = ("right–left", "posterior–anterior", "inferior–superior")
HISTOGRAM_DISTANCE = "distance of the normalised histogram"


@dataclass(frozen=True)
class Quantity:
    """A quantity in which images can be outliers."""

    name: str  # for readers
    smallest: float  # smallest departure that matters: a factor if `ratio`, else a difference
    unit: str = ""  # unit with its space, such as " mm"; "%" for shares
    ratio: bool = False  # whether values are compared by their ratio, on a logarithmic scale
    upward: bool = False  # whether only values above the median can be outliers

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.1%}" if self.unit == "%" else f"{value:.4g}{self.unit}"

    @property
    def rule(self) -> str:
        """Smallest departure that matters, for readers."""
        if self.ratio:
            return f"a factor of {self.smallest:g}"
        return f"{100 * self.smallest:g} percentage points" if self.unit == "%" else f"{self.smallest:g}{self.unit}"


QUANTITIES = (
    *(Quantity(f"spacing {direction}", 1.1, " mm", ratio=True) for direction in DIRECTIONS),
    *(Quantity(f"voxels {direction}", 1.25, ratio=True) for direction in DIRECTIONS),
    *(Quantity(side, 1.25, " pixels", ratio=True) for side in ("width", "height")),
    Quantity("obliqueness", 10, "°"),
    Quantity("intensity range of the head", 2.5, ratio=True),
    Quantity("share of zeros", 0.25, "%"),
    Quantity("share of head", 1.5, "%", ratio=True),
    Quantity(HISTOGRAM_DISTANCE, 0.15, upward=True),
)


@dataclass(frozen=True)
class Departure:
    """Departure of an image from its contrast."""

    quantity: str
    text: str  # value and the contrast's median
    # distance from the median, in units of the robust standard deviation or 1/3.5 of the smallest departure that
    # matters, whichever is larger; None for orientations
    z: float | None


def departures(cohort: Mapping[Case, ImageStatistics]) -> dict[Case, list[Departure]]:
    """Return the departures of a contrast's outliers; none in cohorts of fewer than `FEWEST` images."""
    if len(cohort) < FEWEST:
        return {}
    outliers = _other_orientations(cohort)
    distances = histogram_distances(cohort)
    quantities = {case: _quantities_of(image) | {HISTOGRAM_DISTANCE: distances[case]} for case, image in cohort.items()}
    for quantity in QUANTITIES:
        values = {case: values[quantity.name] for case, values in quantities.items() if quantity.name in values}
        if len(values) < FEWEST:
            continue
        median = quantity.text(float(np.median(list(values.values()))))
        for case, z in zip(values, robust_z(list(values.values()), quantity), strict=True):
            if (z if quantity.upward else abs(z)) > LIMIT:
                text = f"{quantity.name} {quantity.text(values[case])} (median {median}, z {z:+.1f})"
                outliers.setdefault(case, []).append(Departure(quantity.name, text, float(z)))
    return {case: outliers[case] for case in cohort if case in outliers}


def _quantities_of(image: ImageStatistics) -> dict[str, float]:
    """Return an image's quantities by name, without that of its histogram."""
    values = {
        "intensity range of the head": image.high - image.low,
        "share of zeros": image.zeros,
        "share of head": image.head,
    }
    if image.grid is None:
        return values | dict(zip(("width", "height"), image.shape, strict=True))
    values["obliqueness"] = image.grid.oblique_degrees
    for axis, direction in enumerate(DIRECTIONS):
        values[f"spacing {direction}"] = image.grid.spacing_ras_mm[axis]
        values[f"voxels {direction}"] = image.grid.shape_ras[axis]
    return values


def robust_z(values: Sequence[float], quantity: Quantity) -> np.ndarray:
    """Return the (N,) modified z-scores, with a lower bound on the deviation.

    A score beyond ±3.5 means a distance from the median of more than 3.5 robust standard deviations, and of more than
    the quantity's smallest departure that matters.
    """
    sample, smallest = np.asarray(values, dtype=np.float64), quantity.smallest
    if quantity.ratio:
        sample, smallest = np.log(np.maximum(sample, 1e-12)), np.log(smallest)
    deviation = 1.4826 * median_abs_deviation(sample)  # of normal values, their standard deviation
    return (sample - np.median(sample)) / max(deviation, smallest / LIMIT)


def histogram_distances(cohort: Mapping[Case, ImageStatistics]) -> dict[Case, float]:
    """Return the earth mover's distance of each normalised histogram to the cohort's median one; intensities span 2.

    In one dimension it is the area between two cumulative histograms; their median is taken bin by bin.
    """
    cumulative = np.cumsum([image.histogram for image in cohort.values()], axis=1)  # (N, BINS)
    areas = np.abs(cumulative - np.median(cumulative, axis=0)).sum(axis=1) * (2 / BINS)
    return dict(zip(cohort, areas.tolist(), strict=True))


def _other_orientations(cohort: Mapping[Case, ImageStatistics]) -> dict[Case, list[Departure]]:
    """Return the images whose orientation differs from the common one of the contrast, if there is one."""
    codes = {case: image.grid.orientation for case, image in cohort.items() if image.grid}
    [(usual, count)] = Counter(codes.values()).most_common(1) or [("", 0)]
    if count < COMMON * len(codes):
        return {}
    note = f"({count} of {len(codes)} are {usual}; all are turned to RAS before they are cut)"
    return {
        case: [Departure("orientation", f"orientation {code} {note}", None)]
        for case, code in codes.items()
        if code != usual
    }
