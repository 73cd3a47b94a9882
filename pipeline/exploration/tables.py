"""The tables of an exploration, on the page and in the terminal."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.data.sources.listing import natural_key
from pipeline.exploration.cohort import PARTS, Cohort
from pipeline.exploration.findings import Finding
from pipeline.exploration.image_statistics import PERCENTILES, ImageFacts

SHOWN_NAMES, SHOWN_GRIDS = 6, 12


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        header: One name a column.
        rows: Of text.
        title: Above it, "" for none.
        about: A line below the title, "" for none.
        folded: Whether it opens on a click; needs a title.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    about: str = ""
    folded: bool = False


def summary_rows(cohort: Cohort, findings: Sequence[Finding]) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of the terminal's table: one row a contrast, one for the pairs."""
    header = ["contrast", "images", "subjects", *PARTS, "grids", "unreadable", "outliers"]
    rows = []
    for contrast in cohort.contrasts:
        cases, images = cohort.cases(contrast), cohort.readable(contrast)
        outliers = [finding for finding in findings if finding.kind == "outlier" and finding.cases[0] in images]
        parts = [len(cohort.cases(contrast, part)) for part in PARTS]
        grids = len({_grid_text(facts) for facts in images.values()})
        rows.append(
            [
                contrast,
                len(cases),
                len(cohort.subjects(contrast)),
                *parts,
                grids,
                len(cases) - len(images),
                len(outliers),
            ]
        )
    pairs, parts = cohort.pairs(), [len(cohort.pairs(part)) for part in PARTS]
    rows.append(["pairs", len(pairs), len({first.subject for first, _ in pairs}), *parts, "", "", ""])
    return header, rows


def subject_table(cohort: Cohort) -> Table:
    """Return who has which contrast."""
    first, second = (cohort.subjects(contrast) for contrast in cohort.contrasts)
    one, other = cohort.contrasts
    groups = {f"{one} and {other}": first & second, f"{one} only": first - second, f"{other} only": second - first}
    rows = [[name, f"{len(who):,}", _some(sorted(who, key=natural_key))] for name, who in groups.items() if who]
    return Table(["scanned in", "subjects", "who"], rows)


def grid_tables(cohort: Cohort) -> list[Table]:
    """Return, by contrast, which grids and types of file there are, the commonest first."""
    header = ["images", "shape", "spacing [mm]", "axes run to", "stored as", "oblique", "who"]
    tables = []
    for contrast in cohort.contrasts:
        images = cohort.readable(contrast)
        groups = defaultdict(list)
        for case, facts in images.items():
            groups[_grid_text(facts)].append(case)
        ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
        rows = [
            [f"{len(cases):,}", *text, _range([_oblique(images[case]) for case in cases], "°"), _some(_names(cases))]
            for text, cases in ordered[:SHOWN_GRIDS]
        ]
        rest = [case for _, cases in ordered[SHOWN_GRIDS:] for case in cases]
        if rest:
            rows.append([f"{len(rest):,}", f"{len(ordered) - SHOWN_GRIDS:,} others", *[""] * 4, _some(_names(rest))])
        tables.append(_without_empty_columns(Table(header, rows, contrast)))
    return tables


def intensity_table(cohort: Cohort) -> Table:
    """Return, by contrast, the median over the images of each intensity statistic, and its range."""
    middle = len(PERCENTILES) // 2
    statistics = {
        "minimum": lambda facts: facts.lowest,
        f"percentile {PERCENTILES[0]}": lambda facts: facts.percentiles[0],
        f"percentile {PERCENTILES[middle]}": lambda facts: facts.percentiles[middle],
        f"percentile {PERCENTILES[-1]}": lambda facts: facts.percentiles[-1],
        "maximum": lambda facts: facts.highest,
        "becomes -1": lambda facts: facts.low,
        "becomes 1": lambda facts: facts.high,
        "zeros [%]": lambda facts: 100 * facts.zeros,
        "head [%]": lambda facts: 100 * facts.head,
        "NaN or infinite": lambda facts: facts.nan + facts.inf,
    }
    rows = [
        [name, *(_range([of(facts) for facts in cohort.readable(contrast).values()]) for contrast in cohort.contrasts)]
        for name, of in statistics.items()
    ]
    return Table(["median over the images (lowest to highest)", *cohort.contrasts], rows)


def image_table(cohort: Cohort, contrast: str) -> Table:
    """Return a row for every readable image of a contrast."""
    header = ["image", "split", "shape", "spacing [mm]", "axes", "stored as", "oblique", "slope", "minimum",
              *(f"p{percentile}" for percentile in PERCENTILES), "maximum", "zeros", "head", "slices"]  # fmt: skip
    rows = [
        [
            case.name, cohort.parts[case], *_grid_text(facts), _range([_oblique(facts)], "°"), f"{facts.slope:.4g}",
            _number(facts.lowest),
            *(_number(value) for value in facts.percentiles), _number(facts.highest), f"{facts.zeros:.1%}",
            f"{facts.head:.1%}", str(facts.slices),
        ]
        for case, facts in cohort.readable(contrast).items()
    ]  # fmt: skip
    return _without_empty_columns(Table(header, rows, f"{len(rows):,} {contrast} images", folded=True))


def _grid_text(facts: ImageFacts) -> tuple[str, str, str, str]:
    """Return shape, spacing, orientation and type; every file may have a slope of its own, so it is not spelt out."""
    shape = "×".join(str(length) for length in facts.shape)
    scaled = "" if (facts.slope, facts.intercept) == (1, 0) else ", scaled"
    if facts.grid is None:
        return shape, "", "", facts.stored_as
    spacing = "×".join(f"{size:.4g}" for size in facts.grid.spacing_mm)
    return shape, spacing, facts.grid.orientation, facts.stored_as + scaled


def _without_empty_columns(table: Table) -> Table:
    """Leave out what no row has: pictures have no grid."""
    kept = [column for column in range(len(table.header)) if any(row[column] for row in table.rows)]
    rows = [[row[column] for column in kept] for row in table.rows]
    return replace(table, header=[table.header[column] for column in kept], rows=rows)


def _oblique(facts: ImageFacts) -> float | None:
    return facts.grid.oblique_degrees if facts.grid else None


def _range(values: Iterable[float | None], unit: str = "") -> str:
    """Return the median and, where they differ, the lowest and the highest value."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, middle, high = (_number(value) for value in (min(known), float(np.median(known)), max(known)))
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _names(cases: Iterable) -> list[str]:
    return list(dict.fromkeys(f"{case.subject} {case.session}".strip() for case in cases))


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(names[:SHOWN_NAMES])
    return f"{listed} and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else listed
