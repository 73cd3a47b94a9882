"""Tables of an exploration, on the page and in the terminal."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.data.case import Case
from pipeline.data.sources.listing import natural_key
from pipeline.exploration.cohort import SUBSETS, Cohort
from pipeline.exploration.findings import SHOWN_NAMES, Finding
from pipeline.exploration.image_statistics import BINS, PERCENTILES, ImageStatistics
from pipeline.utils.console import shortlist

SHOWN_GRIDS = 12


@dataclass(frozen=True)
class Table:
    """Rows of text under a header, with a title above; "" for none."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


def summary_rows(cohort: Cohort, findings: Sequence[Finding]) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of the terminal's table: one row per contrast, and one for the pairs."""
    header = ["contrast", "images", "subjects", *SUBSETS, "grids", "unreadable", "outliers"]
    rows: list[list[object]] = []
    for contrast in cohort.contrasts:
        cases, images = cohort.cases(contrast), cohort.readable(contrast)
        outliers = [finding for finding in findings if finding.kind == "outlier" and finding.cases[0] in images]
        subsets = [len(cohort.cases(contrast, subset)) for subset in SUBSETS]
        counts = [len({_grid_text(image) for image in images.values()}), len(cases) - len(images), len(outliers)]
        rows.append([contrast, len(cases), len(cohort.subjects(contrast)), *subsets, *counts])
    pairs, subsets = cohort.pairs(), [len(cohort.pairs(subset)) for subset in SUBSETS]
    rows.append(["pairs", len(pairs), len({first.subject for first, _ in pairs}), *subsets, "", "", ""])
    return header, rows


def subject_table(cohort: Cohort) -> Table:
    """Return a table of the subjects with both contrasts, or with one of them."""
    (first_contrast, first), (second_contrast, second) = (
        (contrast, cohort.subjects(contrast)) for contrast in cohort.contrasts
    )
    groups = {
        f"{first_contrast} and {second_contrast}": first & second,
        f"{first_contrast} only": first - second,
        f"{second_contrast} only": second - first,
    }
    rows = [
        [name, f"{len(subjects):,}", shortlist(sorted(subjects, key=natural_key), SHOWN_NAMES)]
        for name, subjects in groups.items()
        if subjects
    ]
    return Table(["scanned in", "subjects", "who"], rows)


def grid_tables(cohort: Cohort) -> list[Table]:
    """Return one table per contrast of its grids and data types, the most common first."""
    tables = []
    for contrast in cohort.contrasts:
        # Group the images by grid, the largest group first.
        images = cohort.readable(contrast)
        groups: dict[tuple[str, ...], list[Case]] = defaultdict(list)
        for case, image in images.items():
            groups[_grid_text(image)].append(case)
        groups_by_size = sorted(groups.items(), key=lambda group: -len(group[1]))

        # List the first groups, and the others in one row.
        rows = []
        for text, cases in groups_by_size[:SHOWN_GRIDS]:
            oblique = _median_and_range([grid.oblique_degrees for case in cases if (grid := images[case].grid)], "°")
            rows.append([f"{len(cases):,}", *text, oblique, _names_of_scans(cases)])
        if others := [case for _, cases in groups_by_size[SHOWN_GRIDS:] for case in cases]:
            title = f"{len(groups_by_size) - SHOWN_GRIDS:,} others"
            rows.append([f"{len(others):,}", title, "", "", "", "", _names_of_scans(others)])
        header = ["images", "shape", "spacing [mm]", "axes run to", "stored as", "oblique", "who"]
        tables.append(_without_empty_columns(Table(header, rows, contrast)))
    return tables


def intensity_table(cohort: Cohort) -> Table:
    """Return a table of each intensity statistic, per contrast: median over the images, and range."""
    middle = len(PERCENTILES) // 2
    quantities: dict[str, Callable[[ImageStatistics], float]] = {
        "minimum": lambda image: image.lowest,
        f"percentile {PERCENTILES[0]}": lambda image: image.percentiles[0],
        f"percentile {PERCENTILES[middle]}": lambda image: image.percentiles[middle],
        f"percentile {PERCENTILES[-1]}": lambda image: image.percentiles[-1],
        "maximum": lambda image: image.highest,
        "becomes -1": lambda image: image.low,
        "becomes 1": lambda image: image.high,
        "median of the head, normalised": _normalised_median,
        "zeros [%]": lambda image: 100 * image.zeros,
        "head [%]": lambda image: 100 * image.head,
        "NaN or infinite": lambda image: image.nan + image.inf,
    }
    columns = [cohort.readable(contrast).values() for contrast in cohort.contrasts]
    rows = [
        [name, *(_median_and_range([quantity(image) for image in images]) for images in columns)]
        for name, quantity in quantities.items()
    ]
    return Table(["median over the images (lowest to highest)", *cohort.contrasts], rows)


def _normalised_median(image: ImageStatistics) -> float:
    """Return the centre of the histogram's bin in which the head's median lies."""
    return (int(np.searchsorted(np.cumsum(image.histogram), 0.5)) + 0.5) * (2 / BINS) - 1


def _grid_text(image: ImageStatistics) -> tuple[str, str, str, str]:
    """Return shape, spacing, orientation and data type as text; slopes differ by file and are left out."""
    shape = "×".join(str(length) for length in image.shape)
    if image.grid is None:
        return shape, "", "", image.stored_as
    suffix = "" if (image.slope, image.intercept) == (1, 0) else ", scaled"
    spacing = "×".join(f"{size:.4g}" for size in image.grid.spacing_mm)
    return shape, spacing, image.grid.orientation, image.stored_as + suffix


def _without_empty_columns(table: Table) -> Table:
    """Remove columns that are empty in all rows, such as the grid of 2D images."""
    filled_columns = [column for column in range(len(table.header)) if any(row[column] for row in table.rows)]
    rows = [[row[column] for column in filled_columns] for row in table.rows]
    return replace(table, header=[table.header[column] for column in filled_columns], rows=rows)


def _median_and_range(values: Collection[float], unit: str = "") -> str:
    """Return the median and, if values differ, their range as text."""
    if not values:
        return ""
    low, middle, high = (_number(value) for value in (min(values), float(np.median([*values])), max(values)))
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _names_of_scans(cases: Iterable[Case]) -> str:
    return shortlist(list(dict.fromkeys(f"{case.subject} {case.session}".strip() for case in cases)), SHOWN_NAMES)
