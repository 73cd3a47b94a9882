"""Outliers among the images of a contrast, by a robust rule that ignores small differences.

The modified z-score (Iglewicz and Hoaglin 1993) with a floor: the distance from the contrast's median, divided by
1.4826 times the median absolute deviation, flagged beyond 3.5. In a uniform cohort that deviation is 0, and any noise
would be flagged; therefore each quantity has a smallest departure that matters, below which nothing is flagged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.data.case import Case
from pipeline.exploration.image_statistics import BINS, ImageStatistics

LIMIT = 3.5
AS_NORMAL = 1.4826  # makes the median absolute deviation of normal values their standard deviation
FEWEST = 5  # images of a contrast; fewer have no outliers
COMMON = 0.75  # the share of a contrast that must agree on an orientation for the others to stand out


@dataclass(frozen=True)
class Quantity:
    """A quantity in which images can be outliers.

    Attributes:
        name: Name for readers.
        unit: Unit with its space, such as " mm"; "" for none.
        smallest: Smallest departure that matters: a factor if `ratio`, else a difference.
        ratio: Whether values are compared by their ratio, on a logarithmic scale.
        upward: Whether only values above the median can be outliers.
        value: Function of an image that returns the value, or None for images without one. Unset for the histogram's
            distance, which depends on all images.
        percent: Whether the value is a share.
    """

    name: str
    unit: str
    smallest: float
    ratio: bool
    upward: bool = False
    value: Callable[[ImageStatistics], float | None] | None = None
    percent: bool = False

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.1%}" if self.percent else f"{value:.4g}{self.unit}"

    @property
    def rule(self) -> str:
        """Smallest departure that matters, for readers."""
        if self.ratio:
            return f"a factor of {self.smallest:g}"
        return f"{100 * self.smallest:g} percentage points" if self.percent else f"{self.smallest:g}{self.unit}"


def _grid_value(axis: int, attribute: str) -> Callable[[ImageStatistics], float | None]:
    """Return a function for one component of a volume's grid."""
    return lambda image: getattr(image.grid, attribute)[axis] if image.grid else None


def _picture_side(number: int) -> Callable[[ImageStatistics], float | None]:
    """Return a function for one side length of a 2D image."""
    return lambda image: None if image.grid else image.shape[number]


def _obliqueness(image: ImageStatistics) -> float | None:
    return image.grid.oblique_degrees if image.grid else None


_DIRECTIONS = ("right–left", "posterior–anterior", "inferior–superior")
QUANTITIES = (
    *(
        Quantity(f"spacing {name}", " mm", 1.1, ratio=True, value=_grid_value(axis, "spacing_ras_mm"))
        for axis, name in enumerate(_DIRECTIONS)
    ),
    *(
        Quantity(f"voxels {name}", "", 1.25, ratio=True, value=_grid_value(axis, "shape_ras"))
        for axis, name in enumerate(_DIRECTIONS)
    ),
    *(
        Quantity(name, " pixels", 1.25, ratio=True, value=_picture_side(number))
        for number, name in enumerate(("width", "height"))
    ),
    Quantity("obliqueness", "°", 10, ratio=False, value=_obliqueness),
    Quantity("intensity range of the head", "", 2.5, ratio=True, value=lambda image: image.high - image.low),
    Quantity("share of zeros", "", 0.25, ratio=False, value=lambda image: image.zeros, percent=True),
    Quantity("share of head", "", 1.5, ratio=True, value=lambda image: image.head, percent=True),
    Quantity("distance of the normalised histogram", "", 0.15, ratio=False, upward=True),
)


@dataclass(frozen=True)
class Departure:
    """Departure of an image from its contrast.

    Attributes:
        quantity: Name of the quantity.
        text: Value and the contrast's median, for readers.
        z: Distance from the median, in units of the robust standard deviation or 1/3.5 of the smallest departure that
            matters, whichever is larger; None for orientations.
    """

    quantity: str
    text: str
    z: float | None


def departures(cohort: Mapping[Case, ImageStatistics]) -> dict[Case, list[Departure]]:
    """Return case -> departures from its contrast, for outliers only; none in cohorts of fewer than `FEWEST` images.

    Args:
        cohort: Images of one contrast.
    """
    departures_by_case: dict[Case, list[Departure]] = {case: [] for case in cohort}
    if len(cohort) < FEWEST:
        return {}
    for case, departure in _other_orientations(cohort):
        departures_by_case[case].append(departure)
    for quantity in QUANTITIES:
        values = _values(quantity, cohort)
        if len(values) < FEWEST:
            continue
        middle = _median(quantity, values)
        for case, z in zip(values, robust_z(list(values.values()), quantity), strict=True):
            if (z if quantity.upward else abs(z)) > LIMIT:
                text = f"{quantity.name} {quantity.text(values[case])} (median {quantity.text(middle)}, z {z:+.1f})"
                departures_by_case[case].append(Departure(quantity.name, text, float(z)))
    return {case: case_departures for case, case_departures in departures_by_case.items() if case_departures}


def robust_z(values: list[float], quantity: Quantity) -> np.ndarray:
    """Return the (N,) modified z-scores, with a lower bound on the deviation.

    A score beyond ±3.5 means a distance from the median of more than 3.5 robust standard deviations, and of more than
    the quantity's smallest departure that matters.
    """
    measured = np.asarray(values, dtype=np.float64)
    smallest = quantity.smallest
    if quantity.ratio:
        measured, smallest = np.log(np.maximum(measured, 1e-12)), np.log(smallest)
    distance = measured - np.median(measured)
    deviation = AS_NORMAL * np.median(np.abs(distance))
    return distance / max(deviation, smallest / LIMIT)


def histogram_distances(cohort: Mapping[Case, ImageStatistics]) -> dict[Case, float]:
    """Return the earth mover's distance of each normalised histogram to the cohort's median one; intensities span 2.

    In one dimension it is the area between two cumulative histograms; their median is taken bin by bin.
    """
    cumulative = np.cumsum([image.histogram for image in cohort.values()], axis=1)  # (N, BINS)
    areas = np.abs(cumulative - np.median(cumulative, axis=0)).sum(axis=1) * (2 / BINS)
    return {case: float(area) for case, area in zip(cohort, areas, strict=True)}


def _values(quantity: Quantity, cohort: Mapping[Case, ImageStatistics]) -> dict[Case, float]:
    if quantity.value is None:
        return histogram_distances(cohort)
    values = {case: quantity.value(image) for case, image in cohort.items()}
    return {case: float(value) for case, value in values.items() if value is not None}


def _median(quantity: Quantity, values: Mapping[Case, float]) -> float:
    measured = list(values.values())
    return float(np.exp(np.median(np.log(measured))) if quantity.ratio and min(measured) > 0 else np.median(measured))


def _other_orientations(cohort: Mapping[Case, ImageStatistics]) -> list[tuple[Case, Departure]]:
    """Return the images whose orientation differs from the common one of the contrast, if there is one."""
    codes = {case: image.grid.orientation for case, image in cohort.items() if image.grid}
    if not codes:
        return []
    common, count = max(
        ((code, list(codes.values()).count(code)) for code in sorted(set(codes.values()))), key=lambda pair: pair[1]
    )
    if count < COMMON * len(codes):
        return []
    text = f"orientation {{}} ({count} of {len(codes)} are {common}; all are turned to RAS before they are cut)"
    return [(case, Departure("orientation", text.format(code), None)) for case, code in codes.items() if code != common]
