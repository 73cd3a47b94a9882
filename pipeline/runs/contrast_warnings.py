"""Warnings of a run or a dry run where the two contrasts' scans differ in more than their contrast."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.config.schema import Config
from pipeline.data.case import Case
from pipeline.data.contrast_differences import coverage_text, voxel_text
from pipeline.data.coverage import Coverage, typical_lengths
from pipeline.data.headers import header_grids
from pipeline.data.similar_ids import similar_ids_text
from pipeline.data.splits import CohortSplit
from pipeline.runs.coverage_choice import ByContrast

logger = logging.getLogger(__name__)


def ids_text(config: Config, cases: Sequence[Case], subset_of: Mapping[str, str]) -> str | None:
    """Return a warning about subjects' names that nearly agree; None if none do, or if names mean nothing.

    Args:
        config: Configuration of the run.
        cases: Cases of the cohort.
        subset_of: Subject -> its subset of the split.
    """
    if config.data.source == "phantom" or (config.data.source == "images" and not config.data.paired):
        return None  # unpaired pictures are numbered contrast by contrast
    return similar_ids_text(cases, config.contrasts, dict(subset_of))


def warn_of_ids(config: Config, cases: Sequence[Case], split: CohortSplit) -> None:
    """Warn if names of subjects in the two contrasts nearly agree: perhaps one person under two names."""
    training = {case.subject: "train" for side in split.train.values() for case in side}
    held_out = {case.subject: subset for subset in ("validation", "test") for case in getattr(split, subset)}
    if text := ids_text(config, cases, training | held_out):
        logger.warning(text)


def warn_of_stored(config: Config, stored: ByContrast, coverage: Coverage, *, paired: bool) -> None:
    """Warn if the contrasts' training volumes differ in the range of the head they show, or in voxel size.

    Args:
        config: Configuration of the run.
        stored: Contrast -> its training cases.
        coverage: Range of the head that is trained on; printed if both contrasts were cut to their shared range.
        paired: Whether training sees the same places in both contrasts, so that their ranges do not matter.
    """
    shown_mm = coverage.shown_mm or {}
    text = None if paired else coverage_text(shown_mm, coverage)
    if text:
        logger.warning(text)
    elif coverage.mm is not None and len(shown_mm) > 1:
        lengths = ", ".join(f"{contrast} {length:.0f} mm" for contrast, length in shown_mm.items())
        logger.info(f"trained on: {coverage} (scans show, by their medians, {lengths})")
    if config.preprocess.spacing_mm is None:
        _warn_of_voxels(
            {contrast: [entry.statistics.spacing_mm for entry in entries] for contrast, entries in stored.items()}
        )


def warn_of_headers(config: Config, cases: Sequence[Case], split: CohortSplit, *, paired: bool = False) -> None:
    """Warn of differences in names, fields of view and voxel sizes, from headers only, before any volume is read.

    `paired` as in `warn_of_stored`.
    """
    warn_of_ids(config, cases, split)
    if config.data.source in ("phantom", "images"):
        return
    axis, setting = config.preprocess.axis, config.preprocess.coverage_mm
    grids = {contrast: list(header_grids(split.train[contrast])) for contrast in config.contrasts}
    fields = typical_lengths(
        {contrast: [grid.field_along(axis) for grid in contrast_grids] for contrast, contrast_grids in grids.items()}
    )
    coverage = Coverage(axis, setting if isinstance(setting, float) else None, fields)
    if not paired and (text := coverage_text(fields, coverage, region="field of view")):
        if setting == "shared":
            lengths = ", ".join(f"{contrast} {length:.0f} mm" for contrast, length in fields.items())
            logger.info(f"coverage   fields of view differ ({lengths}): training takes what both contrasts' heads show")
        else:
            logger.warning(f"{text} (by headers alone: of the head they tell nothing, pipeline.explore does)")
    if config.preprocess.spacing_mm is None:
        _warn_of_voxels(
            {contrast: [grid.voxel_mm for grid in contrast_grids] for contrast, contrast_grids in grids.items()}
        )


def _warn_of_voxels(voxels_mm: Mapping[str, Sequence[Sequence[float]]]) -> None:
    typical = {contrast: np.median(sizes, axis=0).tolist() for contrast, sizes in voxels_mm.items() if len(sizes)}
    if text := voxel_text(typical):
        logger.warning(text)
