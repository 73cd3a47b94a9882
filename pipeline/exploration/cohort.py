"""A cohort as it was found: who has which contrast, which part of the split uses it, and what each image is like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.case import Case, pairs
from pipeline.data.coverage import FULL_COVERAGE, Coverage
from pipeline.data.splits import CohortSplit
from pipeline.exploration.image_statistics import ImageFacts, examine
from pipeline.utils.console import progress, warn
from pipeline.utils.errors import UserError
from pipeline.utils.workers import work_off

PARTS = ("train", "validation", "test", "not used")
NOT_USED = PARTS[-1]


@dataclass(frozen=True)
class Cohort:
    """What is known of a cohort.

    Attributes:
        contrasts: The two contrasts' names.
        parts: Every case of theirs -> one of `PARTS`.
        facts: What each readable image is like.
        unreadable: Why each other one is not.
        coverage: The range of the head that training would take.
    """

    contrasts: tuple[str, str]
    parts: Mapping[Case, str]
    facts: Mapping[Case, ImageFacts]
    unreadable: Mapping[Case, str]
    coverage: Coverage = FULL_COVERAGE

    def cases(self, contrast: str, part: str | None = None) -> list[Case]:
        """Return the cases of a contrast, readable or not, of one part or of all."""
        return [case for case, its in self.parts.items() if case.contrast == contrast and part in (None, its)]

    def readable(self, contrast: str) -> dict[Case, ImageFacts]:
        """Return the readable cases of a contrast and their facts."""
        return {case: self.facts[case] for case in self.cases(contrast) if case in self.facts}

    def pairs(self, part: str | None = None) -> list[tuple[Case, Case]]:
        """Return the pairs, readable or not, both of whose images are in one part, or all."""
        return pairs([case for case, its in self.parts.items() if part in (None, its)], self.contrasts)

    def subjects(self, contrast: str) -> set[str]:
        """Return who was scanned in a contrast."""
        return {case.subject for case in self.cases(contrast)}


def parts_of(cases: Sequence[Case], contrasts: tuple[str, str], split: CohortSplit | None) -> dict[Case, str]:
    """Return which part of the split uses each case of the two contrasts; without a split none does."""
    used = {}
    if split is not None:
        used = {case: "train" for training in split.train.values() for case in training}
        used |= dict.fromkeys(split.validation, "validation") | dict.fromkeys(split.test, "test")
    return {case: used.get(case, NOT_USED) for case in cases if case.contrast in contrasts}


def read_all(
    cases: Sequence[Case],
    settings: Mapping[str, object],
    min_foreground: float,
    *,
    processes: int | None,
    quiet: bool = False,
) -> tuple[dict[Case, ImageFacts], dict[Case, str]]:
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
    ended = work_off(
        examine, jobs, processes, preload=["transforms.slice_chain", "pipeline.exploration.image_statistics"]
    )
    found, unreadable = {}, {}
    for case, facts, reason in progress(ended, total=len(jobs), title="images", unit="image", quiet=quiet):
        if reason is None:
            found[case] = facts
            continue
        unreadable[case] = reason.replace(f"{case.path}: ", "")
        warn(f"warning: {case.path}: {unreadable[case]}; left out")
    if not found:
        raise UserError(f"none of {len(cases)} images could be read; the reasons are above")
    in_order = [case for case in cases if case in found]
    return {case: found[case] for case in in_order}, {case: unreadable[case] for case in cases if case in unreadable}
