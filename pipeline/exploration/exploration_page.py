"""explore.html: a cohort on one self-contained page, in the style of a run's report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.exploration.charts import histograms, planes_sheet, slices_sheet
from pipeline.exploration.cohort import SUBSETS, Cohort
from pipeline.exploration.findings import Finding
from pipeline.exploration.outliers import COMMON, FEWEST, LIMIT, QUANTITIES, histogram_distances
from pipeline.exploration.tables import Table, grid_tables, image_table, intensity_table, subject_table
from pipeline.reporting.report_page import Highlight, Picture, Report, page_environment
from pipeline.reporting.tiles import RADIOLOGICAL

SHOWN_SLICES = 6  # per contrast and subset
SHOWN_OUTLIERS = 8  # per contrast


@dataclass(frozen=True)
class Section:
    """A section of the page: paragraphs, then tables, then pictures.

    Attributes:
        anchor: HTML id of the section.
        title: Heading.
        lines: Paragraphs.
        tables: Tables in order.
        pictures: Pictures in order.
    """

    anchor: str
    title: str
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def render(cohort: Cohort, findings: Sequence[Finding], report: Report, *, axis: str, oriented: bool) -> str:
    """Return the page as HTML.

    Args:
        cohort: The cohort.
        findings: Findings in the cohort.
        report: Title, warnings, configuration and provenance; the counts are filled in here.
        axis: Plane of the training slices.
        oriented: Whether anatomical directions are known (volumes) or not (2D images).
    """
    sections = [
        _findings_section(cohort, findings, oriented),
        Section("subjects", "Subjects", tables=[subject_table(cohort)]),
        Section("grids", "Grids", tables=grid_tables(cohort)),
        _intensities_section(cohort, findings),
        _slices_section(cohort, axis, oriented),
        Section("images", "Every image", tables=[image_table(cohort, contrast) for contrast in cohort.contrasts]),
    ]
    report = replace(
        report,
        result=result_sentence(cohort, findings),
        highlights=_highlights(cohort, findings),
        split_rows=_split_rows(cohort),
        split_subjects=_split_subjects(cohort),
    )
    template = page_environment(Path(__file__).parent).get_template("explore.html.jinja")
    return template.render(report=report, sections=sections)


def result_sentence(cohort: Cohort, findings: Sequence[Finding]) -> str:
    """Return a sentence with the number of images and of findings of each kind."""
    kinds = [finding.kind for finding in findings]
    counts = ", ".join(f"{kind} {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
    summary = f"{len(cohort.statistics):,} of {len(cohort.subsets):,} images were read and normalised as training would"
    return f"{summary}; worth a look: {counts}." if counts else f"{summary}; none stands out."


def _highlights(cohort: Cohort, findings: Sequence[Finding]) -> list[Highlight]:
    everyone = {case.subject for case in cohort.subsets}
    numbers = [f"{len(cohort.cases(contrast)):,} {contrast}" for contrast in cohort.contrasts]
    concerned = {case for finding in findings for case in finding.cases}
    return [
        Highlight(f"{len(everyone):,}", "subjects"),
        Highlight(f"{len(cohort.subsets):,}", "images", ", ".join(numbers)),
        Highlight(f"{len(cohort.pairs()):,}", "pairs", "both contrasts, in one session"),
        Highlight(f"{len(findings):,}", "findings", f"about {len(concerned):,} images"),
    ]


def _split_rows(cohort: Cohort) -> list[list[str]]:
    rows = []
    for subset in SUBSETS:
        for contrast in cohort.contrasts:
            cases = cohort.cases(contrast, subset)
            slices = sum(image.slices for image in cohort.readable(contrast, subset).values())
            rows.append((subset, contrast, len({case.subject for case in cases}), len(cases), f"{slices:,}"))
        pairs = cohort.pairs(subset)
        rows.append((subset, "pairs", len({first.subject for first, _ in pairs}), len(pairs), ""))
    return [[str(cell) for cell in row] for row in rows if row[3]]


def _split_subjects(cohort: Cohort) -> dict[str, list[str]]:
    return {
        f"{subset} {contrast}": sorted({case.subject for case in cases})
        for subset in SUBSETS
        for contrast in cohort.contrasts
        if (cases := cohort.cases(contrast, subset))
    }


# ── findings ────────────────────────────────────────────────────────────────────────────────────────────────


def _findings_section(cohort: Cohort, findings: Sequence[Finding], oriented: bool) -> Section:
    rows = []
    for finding in findings:
        subsets = ", ".join(dict.fromkeys(cohort.subsets[case] for case in finding.cases))
        rows.append([finding.kind, finding.names, subsets, finding.text])
    tables = [Table(["finding", "image", "split", "reason"], rows)] if rows else []
    lines = [] if findings else ["Every image is readable, and none departs from the others of its contrast."]
    small = [contrast for contrast in cohort.contrasts if len(cohort.readable(contrast)) < FEWEST]
    if small:
        lines.append(f"{' and '.join(small)}: fewer than {FEWEST} images, too few to tell which of them is unusual.")
    pictures = [_outliers_picture(cohort, findings, contrast, oriented) for contrast in cohort.contrasts]
    shown = [picture for picture in pictures if picture]
    return Section("findings", "Worth a look", lines, [*tables, _outlier_rule()], shown)


def _outlier_rule() -> Table:
    """Return a table that explains the rule for outliers."""
    description = (
        f"An image is an outlier where a quantity is farther from its contrast's median than {LIMIT} times the "
        "robust standard deviation (1.4826 times the median absolute deviation; the modified z-score of Iglewicz and "
        "Hoaglin 1993) and farther than the smallest departure that matters, below; factors are compared on a "
        "logarithmic scale. z counts in the larger of that deviation and 1/3.5 of that departure. The normalised "
        "histogram's distance is the earth mover's, to the contrast's median histogram, where intensities span 2; it "
        "counts upwards only. Another orientation is named where at least "
        f"{COMMON:.0%} of the contrast agree on one. Contrasts with fewer than {FEWEST} images are not judged."
    )
    rows = [[quantity.name, quantity.rule] for quantity in QUANTITIES]
    return Table(
        ["quantity", "smallest departure that matters"], rows, "The rule for outliers", description, folded=True
    )


def _outliers_picture(cohort: Cohort, findings: Sequence[Finding], contrast: str, oriented: bool) -> Picture | None:
    """Return planes of a contrast's images with findings, below those of its most typical image."""
    images = cohort.readable(contrast)
    # Findings of kind "cut off" depend on the settings, not on the image.
    shown_findings = [finding for finding in findings if finding.kind != "cut off"]
    shown_cases = list(dict.fromkeys(case for finding in shown_findings for case in finding.cases if case in images))
    if not shown_cases:
        return None
    distances = {case: distance for case, distance in histogram_distances(images).items() if case not in shown_cases}
    rows = {case.name: images[case] for case in shown_cases[:SHOWN_OUTLIERS]}
    if distances:
        typical = min(distances, key=distances.__getitem__)
        rows = {f"typical: {typical.name}": images[typical]} | rows
    count_note = f", the first {SHOWN_OUTLIERS} of {len(shown_cases)}" if len(shown_cases) > SHOWN_OUTLIERS else ""
    sheet = planes_sheet(rows, oriented=oriented, title=f"{contrast}: images worth a look{count_note}")
    return Picture(sheet, f"{contrast} images that findings name", "normalised; the first row is a typical image")


# ── intensities and slices ──────────────────────────────────────────────────────────────────────────────────


def _intensities_section(cohort: Cohort, findings: Sequence[Finding]) -> Section:
    unusual = [case for finding in findings if finding.kind == "outlier" for case in finding.cases]
    images = {contrast: cohort.readable(contrast) for contrast in cohort.contrasts}
    lines = [
        "The head is the foreground that the normalisation is computed on. Minimum, maximum and zeros are the whole "
        "image's, percentiles the head's, all in the file's units; normalised intensities lie in [-1, 1].",
        "One line an image; outliers have a colour of their own.",
    ]
    picture = Picture(
        histograms(images, unusual), "histograms of the heads' intensities before and after normalisation",
        "Densities; the outermost bins of the normalised ones, where clipped intensities lie, are not drawn.",
        on_white=True,
    )  # fmt: skip
    return Section("intensities", "Intensities", lines, [intensity_table(cohort)], [picture])


def _slices_section(cohort: Cohort, axis: str, oriented: bool) -> Section:
    pictures = []
    for subset in SUBSETS:
        for contrast in cohort.contrasts:
            if images := cohort.readable(contrast, subset):
                cases = list(images)
                positions = np.unique(np.linspace(0, len(cases) - 1, min(SHOWN_SLICES, len(cases))).round().astype(int))
                shown = {cases[position]: images[cases[position]] for position in positions}  # evenly spaced
                caption = f"{contrast}, {subset}: {len(shown)} of {len(images):,}"
                sheet = slices_sheet(shown, axis, oriented=oriented)
                pictures.append(Picture(sheet, f"middle slices of {contrast} images, {subset}", caption))
    line = f"The slice through the middle of the head, normalised. {RADIOLOGICAL}" if oriented else "Normalised."
    return Section("slices", "Slices", [line], [], pictures)
