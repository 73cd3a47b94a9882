"""A cohort: contrasts and subset of every subject, and statistics of every image."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data.case import Case, pairs
from pipeline.data.coverage import FULL_COVERAGE, Coverage
from pipeline.data.splits import CohortSplit
from pipeline.exploration.image_statistics import ImageStatistics, examine
from pipeline.runs.contrasts import choose_coverage
from pipeline.utils.console import progress
from pipeline.utils.errors import UserError
from pipeline.utils.workers import run_jobs
from transforms.slice_chain import PreprocessSettings

logger = logging.getLogger(__name__)

SUBSETS = ("train", "validation", "test", "not used")
NOT_USED = SUBSETS[-1]


@dataclass(frozen=True)
class Cohort:
    """Cases of a cohort with their subsets and statistics."""

    contrasts: tuple[str, str]
    subsets: Mapping[Case, str]  # one of `SUBSETS` for each case
    statistics: Mapping[Case, ImageStatistics]  # of the readable ones
    unreadable: Mapping[Case, str]  # reasons
    coverage: Coverage = FULL_COVERAGE  # that training would use

    def cases(self, contrast: str, subset: str | None = None) -> list[Case]:
        """Return the cases of a contrast, readable or not, in one subset or in all."""
        return [case for case in self._cases(subset) if case.contrast == contrast]

    def readable(self, contrast: str, subset: str | None = None) -> dict[Case, ImageStatistics]:
        """Return the readable cases of a contrast and their statistics, in one subset or in all."""
        return {case: self.statistics[case] for case in self.cases(contrast, subset) if case in self.statistics}

    def trained(self, contrast: str) -> dict[Case, ImageStatistics]:
        """Return the readable training images of a contrast; all its readable images if none is for training."""
        return self.readable(contrast, "train") or self.readable(contrast)

    def pairs(self, subset: str | None = None) -> list[tuple[Case, Case]]:
        """Return the pairs, readable or not, with both images in one subset, or in any."""
        return pairs([*self._cases(subset)], self.contrasts)

    def subjects(self, contrast: str) -> set[str]:
        """Return the subjects with a contrast."""
        return {case.subject for case in self.cases(contrast)}

    def _cases(self, subset: str | None) -> Iterator[Case]:
        return (case for case, case_subset in self.subsets.items() if subset in (None, case_subset))


def read_cohort(
    cases: Sequence[Case],
    contrasts: tuple[str, str],
    split: CohortSplit | None,
    settings: PreprocessSettings,
    min_foreground: float,
    *,
    processes: int | None,
    quiet: bool = False,
) -> Cohort:
    """Compute the statistics of every image of the two contrasts in worker processes, one per core by default.

    Without a split all images are "not used". UserError: none of them could be read.
    """
    # Find the subset of each case.
    subset_of: dict[Case, str] = {}
    if split is not None:
        subset_of = {case: "train" for training in split.train.values() for case in training}
        subset_of |= dict.fromkeys(split.validation, "validation") | dict.fromkeys(split.test, "test")
    subsets = {case: subset_of.get(case, NOT_USED) for case in cases if case.contrast in contrasts}

    # Read the images.
    jobs = {case: (Path(case.path), settings, min_foreground) for case in subsets}
    results = run_jobs(
        examine, jobs, processes, preload=["transforms.monai_transforms", "pipeline.exploration.image_statistics"]
    )
    statistics, unreadable = {}, {}
    for case, image, reason in progress(results, total=len(jobs), title="images", unit="image", quiet=quiet):
        if image is not None:
            statistics[case] = image
            continue
        unreadable[case] = str(reason).replace(f"{case.path}: ", "")
        logger.warning(f"{case.path}: {unreadable[case]}; left out")
    if not statistics:
        raise UserError(f"none of {len(subsets)} images could be read; the reasons are above")
    return Cohort(
        contrasts,
        subsets,
        {case: statistics[case] for case in subsets if case in statistics},  # in order, whoever was ready first
        {case: unreadable[case] for case in subsets if case in unreadable},
    )


def with_coverage(cohort: Cohort, setting: str | float, axis: str, saved: Path | None) -> Cohort:
    """Return a cohort with the range of the head that training would use, counting only slices in this range.

    Further arguments: see `pipeline.runs.contrasts.choose_coverage`.
    """
    lengths = {
        contrast: [image.head_mm for image in cohort.trained(contrast).values() if image.head_mm is not None]
        for contrast in cohort.contrasts
    }
    coverage = choose_coverage(setting, axis, lengths, saved)
    statistics = dict(cohort.statistics)
    for case, image in statistics.items():
        if coverage.mm is not None and image.head_slices is not None:
            mask = coverage.select(np.array(image.occupied), image.head_slices, image.slice_mm)
            statistics[case] = replace(image, slices=int(mask.sum()))
    return replace(cohort, coverage=coverage, statistics=statistics)
