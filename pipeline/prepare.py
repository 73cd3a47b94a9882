"""From a configuration to what training needs: cases, split, slices and what the cohort's intensities are like."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config.schema import Config, Preprocess
from pipeline.console import warn
from pipeline.data.case import Case
from pipeline.data.split import CohortSplit, make_split
from pipeline.data.split_file import split_from_file
from pipeline.data.store import StoredCase, build_store
from pipeline.errors import UserError

Facts = dict[str, dict]  # contrast -> what the training cohort is like


@dataclass(frozen=True)
class Prepared:
    """The data of a run.

    Attributes:
        cases: Everything the source has.
        split: Who trains, validates and tests.
        stored: Contrast -> its training cases, as slices in the store.
        facts: Contrast -> what the training cohort is like; see `cohort_facts`.
        left_out: Training cases that could not be used, and why.
    """

    cases: tuple[Case, ...]
    split: CohortSplit
    stored: dict[str, list[StoredCase]]
    facts: Facts
    left_out: dict[Case, str]

    @property
    def longest(self) -> int:
        """The number of training slices of the contrast that has more."""
        return max(facts["slices"] for facts in self.facts.values())


def find_cases(config: Config, *, quiet: bool = False) -> list[Case]:
    """Return the cases of the configured source; the phantom is made where it is not there yet."""
    data = config.data
    if data.source == "ixi":
        from pipeline.data.ixi import ixi_cases

        return ixi_cases(data.folder, config.contrasts)
    if data.source == "nifti":
        from pipeline.data.nifti import nifti_cases

        return nifti_cases(data.folder, data.patterns)
    if data.source == "images":
        from pipeline.data.images import images_cases

        return images_cases(data.folder, data.train, data.test, data.paired)
    from pipeline.data.phantom import phantom_cases

    return phantom_cases(
        data.folder, config.contrasts, subjects=data.subjects, spacing_mm=data.spacing_mm, seed=data.seed,
        processes=config.preprocess.processes, quiet=quiet,
    )  # fmt: skip


def split_cases(config: Config, cases: Sequence[Case], saved: Path | None = None) -> CohortSplit:
    """Return the split: the one a resumed run saved, else the configured file's, else a fresh draw."""
    settings = config.split
    file = saved or settings.file
    if file is not None:
        return split_from_file(file, cases, config.contrasts, pairing=settings.pairing)
    return make_split(
        cases, config.contrasts, validation=settings.validation, test=settings.test, seed=settings.seed,
        pairing=settings.pairing,
    )  # fmt: skip


def chain_settings(preprocess: Preprocess) -> dict:
    """Return the arguments of `transforms.presets.slice_chain` that a configuration asks for, in JSON's types."""
    spacing = preprocess.spacing_mm
    return {
        "axis": preprocess.axis,
        "spacing_mm": None if spacing is None else [spacing.in_plane, spacing.through_plane],
        "size": preprocess.size,
        "n4": preprocess.n4,
        "percentiles": list(preprocess.percentiles) if preprocess.scaling == "percentiles" else None,
    }


def prepare(config: Config, cases: Sequence[Case], saved_split: Path | None = None, *, quiet: bool = False) -> Prepared:
    """Split the cohort and bring the training cases into the slice store.

    Raises:
        UserError: no data, too few subjects, or nothing left of a contrast after unreadable volumes are left out.
    """
    split = split_cases(config, cases, saved_split)
    training = [case for contrast in config.contrasts for case in split.train[contrast]]
    stored, left_out = build_store(
        training,
        config.preprocess.store,
        {**chain_settings(config.preprocess), "min_foreground": config.preprocess.min_foreground},
        processes=config.preprocess.processes,
        on_bad_volume=config.preprocess.on_bad_volume,
        quiet=quiet,
    )
    by_contrast = {
        contrast: [entry for entry in stored if entry.case.contrast == contrast] for contrast in config.contrasts
    }
    for contrast, entries in by_contrast.items():
        if not entries:
            raise UserError(f"no {contrast} image of the training subjects could be used; the reasons are above")
    if left_out:
        warn(f"warning: {len(left_out)} of {len(training)} training images were left out, named above")
    facts = {contrast: cohort_facts(entries) for contrast, entries in by_contrast.items()}
    return Prepared(tuple(cases), split, by_contrast, facts, left_out)


def cohort_facts(stored: Sequence[StoredCase]) -> dict:
    """Return what a contrast's training cohort is like, in JSON's types.

    `low` and `high`: median intensities that became -1 and 1, in the files' units. `integer`: whether all files hold
    whole numbers. `spacing_mm`: median voxel size (R, A, S). `histogram`: of the foreground over [-1, 1], the sum of
    all cases'. `cases`, `slices`: how many.
    """
    facts = [entry.facts for entry in stored]
    return {
        "low": float(np.median([fact["low"] for fact in facts])),
        "high": float(np.median([fact["high"] for fact in facts])),
        "integer": all(fact["integer"] for fact in facts),
        "spacing_mm": np.median([fact["spacing_mm"] for fact in facts], axis=0).tolist(),
        "histogram": np.sum([fact["histogram"] for fact in facts], axis=0).tolist(),
        "cases": len(stored),
        "slices": sum(entry.count for entry in stored),
    }


def training_data(prepared: Prepared) -> dict[str, list]:
    """Return what training sees, so that a resumed run can tell whether it still does: name -> slices and range."""
    return {
        entry.case.name: [entry.count, entry.facts["low"], entry.facts["high"]]
        for entries in prepared.stored.values()
        for entry in entries
    }


def require_same_data(before: dict[str, list], now: dict[str, list], folder: Path) -> None:
    """Refuse to go on training with other data than a run began with.

    Raises:
        UserError: naming the images that are missing, new or changed.
    """
    different = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if different:
        some = ", ".join(different[:5]) + (f" and {len(different) - 5} more" if len(different) > 5 else "")
        raise UserError(
            f"{folder}: the training data changed since the run began ({some}); restore them, or set another output"
        )
