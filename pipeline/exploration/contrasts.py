"""Differences between the contrasts of a cohort besides their contrast: head range, voxel size, subjects' names."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.config.schema import Config
from pipeline.data.case import Case
from pipeline.data.contrast_differences import coverage_text, similar_ids_text, voxel_text
from pipeline.data_builders import names_mean_subjects
from pipeline.exploration.cohort import NOT_USED, Cohort
from pipeline.exploration.findings import Finding
from pipeline.exploration.image_statistics import ImageStatistics
from pipeline.runs.contrasts import choose_coverage


def with_coverage(cohort: Cohort, config: Config, saved: Path | None) -> Cohort:
    """Return a cohort with the range of the head that training would use, counting only slices in this range.

    Args:
        cohort: The cohort as it was read.
        config: Configuration of the run.
        saved: File with the range of a run that has begun; None for a new run.
    """
    lengths = {
        contrast: [image.head_mm for image in _trained(cohort, contrast).values() if image.head_mm is not None]
        for contrast in cohort.contrasts
    }
    coverage = choose_coverage(config.preprocess.coverage_mm, config.preprocess.axis, lengths, saved)
    cohort = replace(cohort, coverage=coverage)
    if coverage.mm is None:
        return cohort
    counted = {
        case: replace(
            image, slices=int(coverage.select(np.array(image.occupied), image.head_slices, image.slice_mm).sum())
        )
        for case, image in cohort.statistics.items()
    }
    return replace(cohort, statistics=counted)


def contrast_findings(cohort: Cohort, config: Config) -> list[Finding]:
    """Return findings about the whole cohort: relevant differences between its contrasts."""
    subsets = {case.subject: subset for case, subset in cohort.subsets.items() if subset != NOT_USED}
    voxels = {
        contrast: np.median(sizes, axis=0).tolist()
        for contrast in cohort.contrasts
        if (sizes := [image.grid.spacing_ras_mm for image in _trained(cohort, contrast).values() if image.grid])
    }
    texts = {
        "similar names": similar_ids_text(list(cohort.subsets), cohort.contrasts, subsets)
        if names_mean_subjects(config)
        else None,
        "coverage": coverage_text(cohort.coverage.shown_mm or {}, cohort.coverage),
        "voxel sizes": voxel_text(voxels) if config.preprocess.spacing_mm is None else None,
    }
    return [Finding(kind, (), text) for kind, text in texts.items() if text]


def _trained(cohort: Cohort, contrast: str) -> dict[Case, ImageStatistics]:
    """Return the readable training images of a contrast; all its readable images if none is for training."""
    images = cohort.readable(contrast)
    return {case: image for case, image in images.items() if cohort.subsets[case] == "train"} or images
