"""Findings in a cohort to look at before training: each names its images and the reason."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.data.case import Case
from pipeline.data.contrast_differences import coverage_text, similar_ids_text, voxel_text
from pipeline.exploration.cohort import NOT_USED, Cohort
from pipeline.exploration.outliers import departures
from pipeline.utils.console import shortlist

LEAST_OVERLAP = 0.5  # of the smaller head; below it, a pair's affines are doubtful
MOST_CUT_OFF = 0.005  # share of the head beyond the slices
SHOWN_NAMES = 6
KINDS = ("unreadable", "duplicate", "similar names", "coverage", "voxel sizes", "no overlap", "not finite", "doubtful",
         "no slices", "cut off", "outlier")  # fmt: skip  # in order of severity


@dataclass(frozen=True)
class Finding:
    """One finding."""

    kind: str  # one of `KINDS`
    cases: tuple[Case, ...]  # empty for the whole cohort
    text: str  # for readers
    z: float | None = None  # an outlier's modified z-score

    @property
    def names(self) -> str:
        """Names of the images in a line; only the first few of many."""
        return shortlist([case.name for case in self.cases], SHOWN_NAMES) if self.cases else "the whole cohort"


def find_all(cohort: Cohort, *, compare_names: bool = False, resampled: bool = True) -> list[Finding]:
    """Return all findings, by severity of their kind, and outliers by their z-score.

    `compare_names`: subjects' names mean the same in both contrasts, so that similar ones are doubtful. `resampled`:
    training resamples all images to one voxel size.
    """
    findings = [
        *(Finding("unreadable", (case,), reason) for case, reason in cohort.unreadable.items()),
        *_duplicates(cohort),
        *_contrast_differences(cohort, compare_names, resampled),
        *_pairs_without_overlap(cohort),
        *_unusable_images(cohort),
        *_cropped_heads(cohort),
        *_outliers(cohort),
    ]
    return sorted(findings, key=lambda finding: (KINDS.index(finding.kind), -abs(finding.z or 0)))


def _contrast_differences(cohort: Cohort, compare_names: bool, resampled: bool) -> Iterator[Finding]:
    """Find differences between the contrasts besides their contrast: names, head range, voxel size."""
    split = {case.subject: subset for case, subset in cohort.subsets.items() if subset != NOT_USED}
    voxels = {
        contrast: np.median(sizes, axis=0).tolist()
        for contrast in cohort.contrasts
        if (sizes := [image.grid.spacing_ras_mm for image in cohort.trained(contrast).values() if image.grid])
    }
    texts = {
        "similar names": similar_ids_text(list(cohort.subsets), cohort.contrasts, split) if compare_names else None,
        "coverage": coverage_text(cohort.coverage.shown_mm or {}, cohort.coverage),
        "voxel sizes": None if resampled else voxel_text(voxels),
    }
    yield from (Finding(kind, (), text) for kind, text in texts.items() if text)


def _duplicates(cohort: Cohort) -> Iterator[Finding]:
    """Find images with equal voxels, which break a split by subject if they belong to two subjects."""
    cases_by_checksum = defaultdict(list)
    for case, image in cohort.statistics.items():
        cases_by_checksum[image.checksum].append(case)
    for cases in cases_by_checksum.values():
        if len(cases) < 2:
            continue
        subjects = {case.subject for case in cases}
        subsets = sorted({cohort.subsets[case] for case in cases} - {NOT_USED})
        if len(subjects) == 1:
            text = "identical voxels: one of these files is not what its name says"
        else:
            text = f"identical voxels under {len(subjects)} subjects' names: the split takes them for different people"
        if len(subjects) > 1 and len(subsets) > 1:
            text += f", and they are in {' and '.join(subsets)}"
        yield Finding("duplicate", tuple(cases), text)


def _pairs_without_overlap(cohort: Cohort) -> Iterator[Finding]:
    """Find pairs whose heads hardly overlap according to their affines."""
    for pair in cohort.pairs():
        overlap = head_overlap(*(cohort.statistics[case].cells if case in cohort.statistics else None for case in pair))
        if overlap is not None and overlap < LEAST_OVERLAP:
            text = f"by their headers the two heads share {overlap:.0%} of the smaller one; check both affines"
            yield Finding("no overlap", pair, text)


def head_overlap(first: np.ndarray | None, second: np.ndarray | None) -> float | None:
    """Return the share of the smaller of two heads, each (K, 3) lattice points, that lies in the other; or None."""
    if first is None or second is None or not len(first) or not len(second):
        return None
    shared = set(map(tuple, first.tolist())) & set(map(tuple, second.tolist()))
    return len(shared) / min(len(first), len(second))


def _unusable_images(cohort: Cohort) -> Iterator[Finding]:
    """Find images with non-finite voxels, images that reading warns of otherwise, and those without usable slices."""
    for case, image in cohort.statistics.items():
        if image.warning:
            is_finite = not image.nan and not image.inf
            counts = "" if is_finite else f" ({image.nan:,} NaN, {image.inf:,} infinite)"
            yield Finding("doubtful" if is_finite else "not finite", (case,), image.warning + counts)
        if not image.slices:
            text = "no slice has enough head in it; training would leave it out (preprocess.min_foreground)"
            yield Finding("no slices", (case,), text)


def _cropped_heads(cohort: Cohort) -> Iterator[Finding]:
    """Find heads larger than the slices: one finding per contrast, since usually many are."""
    for contrast in cohort.contrasts:
        shares = {
            case: image.cut_off for case, image in cohort.readable(contrast).items() if image.cut_off > MOST_CUT_OFF
        }
        if shares:
            text = f"up to {max(shares.values()):.1%} of the head lies beyond the slices that training sees"
            yield Finding("cut off", tuple(shares), f"{text}; raise preprocess.size, or cut on a coarser grid")


def _outliers(cohort: Cohort) -> Iterator[Finding]:
    for contrast in cohort.contrasts:
        for case, image_departures in departures(cohort.readable(contrast)).items():
            scores = [abs(departure.z) for departure in image_departures if departure.z is not None]
            text = "; ".join(departure.text for departure in image_departures)
            yield Finding("outlier", (case,), text, max(scores, default=None))
