"""A cohort as it was found: who has which contrast, which subset of the split uses it, and what each image is like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.case import Case, pairs
from pipeline.data.coverage import WHOLE, Coverage
from pipeline.data.splits import CohortSplit
from pipeline.exploration.image_statistics import ImageStatistics, examine
from pipeline.utils.console import progress, warn
from pipeline.utils.errors import UserError
from pipeline.utils.workers import run_jobs

SUBSETS = ("train", "validation", "test", "not used")
NOT_USED = SUBSETS[-1]


@dataclass(frozen=True)
class Cohort:
    """What is known of a cohort.

    Attributes:
        contrasts: The two contrasts' names.
        subsets: Every case of theirs -> one of `SUBSETS`.
        statistics: What each readable image is like.
        unreadable: Why each other one is not.
        coverage: The range of the head that training would take.
    """

    contrasts: tuple[str, str]
    subsets: Mapping[Case, str]
    statistics: Mapping[Case, ImageStatistics]
    unreadable: Mapping[Case, str]
    coverage: Coverage = WHOLE

    def cases(self, contrast: str, subset: str | None = None) -> list[Case]:
        """Return the cases of a contrast, readable or not, of one subset or of all."""
        return [
            case
            for case, case_subset in self.subsets.items()
            if case.contrast == contrast and subset in (None, case_subset)
        ]

    def readable(self, contrast: str) -> dict[Case, ImageStatistics]:
        """Return the readable cases of a contrast and their statistics."""
        return {case: self.statistics[case] for case in self.cases(contrast) if case in self.statistics}

    def pairs(self, subset: str | None = None) -> list[tuple[Case, Case]]:
        """Return the pairs, readable or not, both of whose images are in one subset, or all."""
        return pairs(
            [case for case, case_subset in self.subsets.items() if subset in (None, case_subset)], self.contrasts
        )

    def subjects(self, contrast: str) -> set[str]:
        """Return who was scanned in a contrast."""
        return {case.subject for case in self.cases(contrast)}


def subsets_of_cases(cases: Sequence[Case], contrasts: tuple[str, str], split: CohortSplit | None) -> dict[Case, str]:
    """Return which subset of the split uses each case of the two contrasts; without a split none does."""
    subset_of = {}
    if split is not None:
        subset_of = {case: "train" for training in split.train.values() for case in training}
        subset_of |= dict.fromkeys(split.validation, "validation") | dict.fromkeys(split.test, "test")
    return {case: subset_of.get(case, NOT_USED) for case in cases if case.contrast in contrasts}


def read_all(
    cases: Sequence[Case],
    settings: Mapping[str, object],
    min_foreground: float,
    *,
    processes: int | None,
    quiet: bool = False,
) -> tuple[dict[Case, ImageStatistics], dict[Case, str]]:
    """Examine every image, in worker processes; return what each is like, and why the others cannot be read.

    Args:
        cases: What to read.
        settings: Arguments of `transforms.slice_chain.slice_chain` that training uses.
        min_foreground: The share of a slice that must be head for training to take it.
        processes: Worker processes; None for one per core.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: none of the images could be read.
    """
    jobs = {case: (Path(case.path), dict(settings), min_foreground) for case in cases}
    results = run_jobs(
        examine, jobs, processes, preload=["transforms.slice_chain", "pipeline.exploration.image_statistics"]
    )
    statistics, unreadable = {}, {}
    for case, image, reason in progress(results, total=len(jobs), title="images", unit="image", quiet=quiet):
        if reason is None:
            statistics[case] = image
            continue
        unreadable[case] = reason.replace(f"{case.path}: ", "")
        warn(f"warning: {case.path}: {unreadable[case]}; left out")
    if not statistics:
        raise UserError(f"none of {len(cases)} images could be read; the reasons are above")
    in_order = [case for case in cases if case in statistics]
    return {case: statistics[case] for case in in_order}, {
        case: unreadable[case] for case in cases if case in unreadable
    }
