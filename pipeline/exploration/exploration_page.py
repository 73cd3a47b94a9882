"""explore.html: a cohort on one self-contained page, in the style of a run's report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data.case import Case
from pipeline.exploration.cohort import SUBSETS, Cohort
from pipeline.exploration.findings import Finding
from pipeline.exploration.image_statistics import LONGEST_PICTURE, ImageStatistics
from pipeline.exploration.outliers import COMMON, FEWEST, LIMIT, QUANTITIES, histogram_distances
from pipeline.exploration.tables import Table, grid_tables, intensity_table, subject_table
from pipeline.reporting.report_page import Picture, Report, page_environment
from pipeline.reporting.tiles import RADIOLOGICAL, Tile, as_displayed, fitted_text, gray_tile, png_bytes, sheet
from transforms.slices import evenly_spread

SHOWN_SLICES = 6  # per contrast and subset
SHOWN_OUTLIERS = 8  # per contrast
NAME_PIXELS = 260
PLANES = ("axial", "coronal", "sagittal")
RULE = (
    f"The rule for outliers: a quantity is farther from its contrast's median than {LIMIT} times the robust standard "
    "deviation (1.4826 times the median absolute deviation; the modified z-score of Iglewicz and Hoaglin 1993) and "
    "farther than the smallest departure that matters: "
    f"{', '.join(f'{quantity.name} {quantity.rule}' for quantity in QUANTITIES)}. Factors are compared on a "
    "logarithmic scale. The histogram's distance is the earth mover's, to the contrast's median histogram, where "
    f"intensities span 2. Another orientation is named where at least {COMMON:.0%} of the contrast agree on one. "
    f"Contrasts with fewer than {FEWEST} images are not judged."
)


@dataclass(frozen=True)
class Section:
    """A section of the page: paragraphs, then tables, then pictures; `anchor` is its HTML id."""

    anchor: str
    title: str
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def render(cohort: Cohort, findings: Sequence[Finding], report: Report, *, axis: str, oriented: bool) -> str:
    """Return the page as HTML.

    `report` has title, warnings, configuration and provenance; the counts are filled in here. `axis` is the plane of
    the training slices; volumes are `oriented`: their anatomical directions are known.
    """
    intensities = (
        "The head is the foreground that the normalisation is computed on. Minimum, maximum and zeros are the whole "
        "image's, percentiles the head's, all in the file's units; training scales them to [-1, 1] and clips the rest."
    )
    sections = [
        _findings_section(cohort, findings, oriented),
        Section("subjects", "Subjects", tables=[subject_table(cohort)]),
        Section("grids", "Grids", tables=grid_tables(cohort)),
        Section("intensities", "Intensities", [intensities], [intensity_table(cohort)]),
        _slices_section(cohort, axis, oriented),
    ]
    report = replace(
        report,
        result=result_sentence(cohort, findings),
        split_rows=_split_rows(cohort),
        split_subjects={
            f"{subset} {contrast}": sorted({case.subject for case in cases})
            for subset in SUBSETS
            for contrast in cohort.contrasts
            if (cases := cohort.cases(contrast, subset))
        },
    )
    template = page_environment(Path(__file__).parent).get_template("explore.html.jinja")
    return template.render(report=report, sections=sections)


def result_sentence(cohort: Cohort, findings: Sequence[Finding]) -> str:
    """Return a sentence with the number of images and of findings of each kind."""
    kinds = [finding.kind for finding in findings]
    counts = ", ".join(f"{kind} {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
    summary = f"{len(cohort.statistics):,} of {len(cohort.subsets):,} images were read and normalised as training would"
    return f"{summary}; worth a look: {counts}." if counts else f"{summary}; none stands out."


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


def _findings_section(cohort: Cohort, findings: Sequence[Finding], oriented: bool) -> Section:
    rows = []
    for finding in findings:
        subsets = ", ".join(dict.fromkeys(cohort.subsets[case] for case in finding.cases))
        rows.append([finding.kind, finding.names, subsets, finding.text])
    lines = [] if findings else ["Every image is readable, and none departs from the others of its contrast."]
    small = [contrast for contrast in cohort.contrasts if len(cohort.readable(contrast)) < FEWEST]
    if small:
        lines.append(f"{' and '.join(small)}: fewer than {FEWEST} images, too few to tell which of them is unusual.")
    pictures = [_outliers_picture(cohort, findings, contrast, oriented) for contrast in cohort.contrasts]
    tables = [Table(["finding", "image", "split", "reason"], rows)] if rows else []
    return Section("findings", "Worth a look", [*lines, RULE], tables, [picture for picture in pictures if picture])


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────


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
        typical_case = min(distances, key=distances.__getitem__)
        rows = {f"typical: {typical_case.name}": images[typical_case]} | rows
    count_note = f", the first {SHOWN_OUTLIERS} of {len(shown_cases)}" if len(shown_cases) > SHOWN_OUTLIERS else ""
    picture = planes_sheet(rows, oriented=oriented, title=f"{contrast}: images worth a look{count_note}")
    return Picture(picture, f"{contrast} images that findings name", "normalised; the first row is a typical image")


def _slices_section(cohort: Cohort, axis: str, oriented: bool) -> Section:
    pictures = []
    for subset in SUBSETS:
        for contrast in cohort.contrasts:
            if images := cohort.readable(contrast, subset):
                cases = list(images)
                sample = {cases[index]: images[cases[index]] for index in evenly_spread(len(cases), SHOWN_SLICES)}
                caption = f"{contrast}, {subset}: {len(sample)} of {len(images):,}"
                picture = slices_sheet(sample, axis, oriented=oriented)
                pictures.append(Picture(picture, f"middle slices of {contrast} images, {subset}", caption))
    line = f"The slice through the middle of the head, normalised. {RADIOLOGICAL}" if oriented else "Normalised."
    return Section("slices", "Slices", [line], [], pictures)


def slices_sheet(images: Mapping[Case, ImageStatistics], axis: str, *, oriented: bool) -> bytes:
    """Draw the normalised middle slices of a few images in a row, with their names above, as a PNG.

    Where anatomical directions are known (`oriented`), the patient's left is drawn on the right.
    """
    tiles = []
    for image in images.values():
        plane = image.planes.get(axis, next(iter(image.planes.values())))  # a 2D image has one alone
        tile = _tile(plane, oriented)
        margins = [divmod(LONGEST_PICTURE - length, 2) for length in tile.shape[:2]]  # a square leaves room for a name
        tiles.append(np.pad(tile, [*((half, half + odd) for half, odd in margins), (0, 0)]))
    names = [f"{case.subject} {case.session}".strip() for case in images]
    return png_bytes(sheet([tiles], column_labels=names))


def planes_sheet(rows: Mapping[str, ImageStatistics], *, oriented: bool, title: str) -> bytes:
    """Draw the planes through the middle of each head, one row per labelled image, as a PNG; see `slices_sheet`."""
    planes = [plane for plane in PLANES if any(plane in image.planes for image in rows.values())]
    tiles = [
        [_tile(image.planes[plane], oriented) if plane in image.planes else None for plane in planes]
        for image in rows.values()
    ]
    return png_bytes(
        sheet(
            tiles,
            column_labels=planes if oriented else [""] * len(planes),
            row_labels=[fitted_text(name, NAME_PIXELS, 15) for name in rows],
            title=title,
            footer=RADIOLOGICAL if oriented else "",
        )
    )


def _tile(plane: np.ndarray, oriented: bool) -> Tile:
    return gray_tile(as_displayed(plane) if oriented else plane.T[::-1], 0, 255)
