"""A cohort: contrasts and subset of every subject, and statistics of every image."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.case import Case, pairs
from pipeline.data.coverage import FULL_COVERAGE, Coverage
from pipeline.data.splits import CohortSplit
from pipeline.exploration.image_statistics import ImageStatistics, examine
from pipeline.utils.console import progress
from pipeline.utils.errors import UserError
from pipeline.utils.workers import run_jobs
from transforms.slice_chain import PreprocessSettings

logger = logging.getLogger(__name__)

SUBSETS = ("train", "validation", "test", "not used")
NOT_USED = SUBSETS[-1]


@dataclass(frozen=True)
class Cohort:
    """Cases of a cohort with their subsets and statistics.

    Attributes:
        contrasts: Names of the two contrasts.
        subsets: Case -> one of `SUBSETS`.
        statistics: Readable case -> statistics of its image.
        unreadable: Unreadable case -> reason.
        coverage: Range of the head that training would use.
    """

    contrasts: tuple[str, str]
    subsets: Mapping[Case, str]
    statistics: Mapping[Case, ImageStatistics]
    unreadable: Mapping[Case, str]
    coverage: Coverage = FULL_COVERAGE

    def cases(self, contrast: str, subset: str | None = None) -> list[Case]:
        """Return the cases of a contrast, readable or not, in one subset or in all."""
        return [
            case
            for case, case_subset in self.subsets.items()
            if case.contrast == contrast and subset in (None, case_subset)
        ]

    def readable(self, contrast: str) -> dict[Case, ImageStatistics]:
        """Return the readable cases of a contrast and their statistics."""
        return {case: self.statistics[case] for case in self.cases(contrast) if case in self.statistics}

    def pairs(self, subset: str | None = None) -> list[tuple[Case, Case]]:
        """Return the pairs, readable or not, with both images in one subset, or in any."""
        return pairs(
            [case for case, case_subset in self.subsets.items() if subset in (None, case_subset)], self.contrasts
        )

    def subjects(self, contrast: str) -> set[str]:
        """Return the subjects with a contrast."""
        return {case.subject for case in self.cases(contrast)}


def subsets_of_cases(cases: Sequence[Case], contrasts: tuple[str, str], split: CohortSplit | None) -> dict[Case, str]:
    """Return the subset of each case of the two contrasts; "not used" for all without a split."""
    subset_of = {}
    if split is not None:
        subset_of = {case: "train" for training in split.train.values() for case in training}
        subset_of |= dict.fromkeys(split.validation, "validation") | dict.fromkeys(split.test, "test")
    return {case: subset_of.get(case, NOT_USED) for case in cases if case.contrast in contrasts}


def read_all(
    cases: Sequence[Case],
    settings: PreprocessSettings,
    min_foreground: float,
    *,
    processes: int | None,
    quiet: bool = False,
) -> tuple[dict[Case, ImageStatistics], dict[Case, str]]:
    """Compute the statistics of every image in worker processes; return them, and the reasons for unreadable images.

    Args:
        cases: Cases to read.
        settings: How training makes slices of volumes.
        min_foreground: Smallest share of head in a slice that training uses.
        processes: Number of worker processes; None for one per core.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: None of the images could be read.
    """
    jobs = {case: (Path(case.path), settings, min_foreground) for case in cases}
    results = run_jobs(
        examine, jobs, processes, preload=["transforms.monai_transforms", "pipeline.exploration.image_statistics"]
    )
    statistics, unreadable = {}, {}
    for case, image, reason in progress(results, total=len(jobs), title="images", unit="image", quiet=quiet):
        if reason is None:
            statistics[case] = image
            continue
        unreadable[case] = reason.replace(f"{case.path}: ", "")
        logger.warning(f"{case.path}: {unreadable[case]}; left out")
    if not statistics:
        raise UserError(f"none of {len(cases)} images could be read; the reasons are above")
    in_order = [case for case in cases if case in statistics]
    return {case: statistics[case] for case in in_order}, {
        case: unreadable[case] for case in cases if case in unreadable
    }
