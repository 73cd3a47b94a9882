"""From cases and their split to the training data: slices, pairs and the cohort's intensity statistics."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.case import Case, pairs
from pipeline.data.coverage import FULL_COVERAGE, Coverage
from pipeline.data.cropped_heads import warn_of_cropped_heads
from pipeline.data.fingerprint import cohort_fingerprint
from pipeline.data.pair_cache import PairSettings, build_pair_cache
from pipeline.data.slice_cache import CacheOptions, build_slice_cache
from pipeline.data.splits import CohortSplit
from pipeline.data.statistics import ContrastStatistics
from pipeline.data.stored_slices import StoredCase, StoredPair
from pipeline.runs.contrasts import (
    choose_coverage,
    pairs_within_coverage,
    shown_mm,
    warn_of_coverage,
    warn_of_voxels,
    within_coverage,
)
from pipeline.utils.console import shortlist
from pipeline.utils.errors import UserError
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """The data of a run.

    `pairs` are registered ones of training cases: all of them, for methods that learn from pairs, or those that the
    split has beside unpaired training.
    """

    cases: tuple[Case, ...]  # all of the source
    split: CohortSplit
    stored: dict[str, list[StoredCase]]  # contrast -> its training cases, as slices in the slice cache
    statistics: dict[str, ContrastStatistics]  # contrast -> statistics of its training cohort
    left_out: dict[Case, str]  # training case that could not be used -> reason
    pairs: tuple[StoredPair, ...] = ()
    coverage: Coverage = FULL_COVERAGE  # range of the head that is trained on
    regions: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)  # test scan -> region -> its label map

    @property
    def longest(self) -> int:
        """Number of training slices: of pairs if training uses them, else of the contrast that has more."""
        if self.pairs and not self.split.pairs:
            return self.paired_slices
        return max(statistics.slices for statistics in self.statistics.values())

    @property
    def paired_slices(self) -> int:
        """Number of training slices that the registered pairs have."""
        return sum(pair.first.count for pair in self.pairs)

    @property
    def histograms(self) -> dict[str, Sequence[float]]:
        """Histogram of the training cohort's foreground over [-1, 1], by contrast."""
        return {contrast: statistics.histogram for contrast, statistics in self.statistics.items()}

    @property
    def training_cases(self) -> list[Case]:
        """All cases of the training subjects, including those that unpaired training does not show the model."""
        subjects = {case.subject for cases in self.split.train.values() for case in cases}
        return [case for case in self.cases if case.subject in subjects and case.contrast in self.split.train]


def chain_settings(preprocess: Mapping[str, Any], version: int = CHAIN_VERSION) -> PreprocessSettings:
    """Return the settings of the slice chain.

    Args:
        preprocess: The `preprocess` section of a configuration, in JSON's types.
        version: Version of the chain; a run keeps the version that it began with (`chain_version`).
    """
    spacing, percentiles = preprocess["spacing_mm"], preprocess["percentiles"]
    return PreprocessSettings(
        axis=preprocess["axis"],
        spacing_mm=None if spacing is None else (spacing["in_plane"], spacing["through_plane"]),
        size=preprocess["size"],
        n4=preprocess["n4"],
        percentiles=tuple(percentiles) if preprocess["scaling"] == "percentiles" else None,
        version=version,
    )


def chain_version(checkpoint: Mapping[str, Any] | None) -> int:
    """Return the version of the slice chain in a checkpoint; without a checkpoint, the version of new runs."""
    return CHAIN_VERSION if checkpoint is None else int(checkpoint.get("chain_version", 1))


def registrations(store: Path) -> Path:
    """Return the folder of the slice cache that keeps registrations, shared by all runs."""
    return store / "registrations"


def prepare(
    cases: Sequence[Case],
    split: CohortSplit,
    settings: PairSettings,
    cache: CacheOptions,
    *,
    coverage_mm: str | float,
    saved_coverage: Path | None = None,
    paired: bool = False,
    lookup: bool = False,
) -> PreparedData:
    """Fill the slice cache with the training cases, and with registered pairs if `paired`.

    Args:
        settings: How volumes become slices, and how pairs are registered.
        coverage_mm: Range of the head to train on: "all", "shared" or a length in mm.
        saved_coverage: File with the range of a resumed run; None for a new run.
        paired: Whether the method learns from registered pairs alone.
        lookup: Whether generators start from a lookup that is fitted to the slices.

    Raises:
        UserError: no usable image of a contrast, or no usable pair.
    """
    # Cut the training images into slices, and keep those within the range of the head.
    training = [case for side in split.train.values() for case in side]
    chain = settings.preprocess
    stored, left_out = build_slice_cache(training, cache, chain, settings.min_foreground)
    uncut = {contrast: [entry for entry in stored if entry.case.contrast == contrast] for contrast in split.train}
    lengths = {contrast: [shown_mm(entry) for entry in entries] for contrast, entries in uncut.items()}
    coverage = choose_coverage(coverage_mm, chain.axis, lengths, saved_coverage)
    by_contrast, out_of_range = within_coverage(uncut, coverage, on_bad_volume=cache.on_bad_volume)
    left_out |= out_of_range

    # Refuse a contrast without images; warn of what was left out, and of how the contrasts differ.
    for contrast, entries in by_contrast.items():
        if not entries:
            raise UserError(f"no {contrast} image of the training subjects could be used; the reasons are above")
    if left_out:
        logger.warning(f"{len(left_out)} of {len(training)} training images were left out, named above")
    warn_of_coverage(coverage, paired=paired, lookup=lookup)
    warn_of_cropped_heads({entry.case: entry.statistics.fingerprint for entry in stored}, chain)
    if chain.spacing_mm is None:
        warn_of_voxels({contrast: [entry.statistics.spacing_mm for entry in side] for contrast, side in uncut.items()})
    statistics = {contrast: cohort_statistics(entries, coverage) for contrast, entries in by_contrast.items()}
    prepared = PreparedData(tuple(cases), split, by_contrast, statistics, left_out, coverage=coverage)
    return _with_pairs(prepared, settings, cache) if paired or split.pairs else prepared


def _with_pairs(prepared: PreparedData, settings: PairSettings, cache: CacheOptions) -> PreparedData:
    """Return prepared data with the registered pairs of its usable training images."""
    # Register the pairs whose two images can be used.
    usable_cases = {entry.case for entries in prepared.stored.values() for entry in entries}
    split, (contrast, partner_contrast) = prepared.split, prepared.split.train
    training_cases = split.pairs or [case for side in split.train.values() for case in side]
    training_pairs = pairs(training_cases, (contrast, partner_contrast))
    usable_pairs = [pair for pair in training_pairs if usable_cases.issuperset(pair)]
    if not usable_pairs:
        raise UserError(
            f"paired training needs a subject with both {contrast} and {partner_contrast}: of "
            f"{len({first.subject for first, _ in training_pairs})} training subjects with both, none has two images "
            "that could be used; the reasons are above"
        )
    stored, failures = build_pair_cache(usable_pairs, cache, settings, registrations(cache.store))
    stored, out_of_range = pairs_within_coverage(stored, prepared.coverage, prepared.stored)
    if not stored:
        raise UserError(f"none of {len(usable_pairs)} pairs could be used; the reasons are above")

    # Warn of pairs that were left out, and say why of each image.
    failures |= out_of_range
    if len(stored) < len(training_pairs):
        logger.warning(f"{len(training_pairs) - len(stored)} of {len(training_pairs)} training pairs were left out")
    if split.pairs:  # each image of a pair that was left out is still one of its contrast's
        return replace(prepared, pairs=tuple(stored))
    left_out = {case: reason for pair, reason in failures.items() for case in pair}
    for pair in training_pairs:
        for case, partner in (pair, pair[::-1]):
            if partner not in usable_cases:
                left_out[case] = f"its partner {partner.path} could not be used"
    return replace(prepared, pairs=tuple(stored), left_out=left_out | prepared.left_out)


def cohort_statistics(stored: Sequence[StoredCase], coverage: Coverage = FULL_COVERAGE) -> ContrastStatistics:
    """Return statistics of a contrast's training cohort, from its slices within a range of the head."""
    cases = [entry.statistics for entry in stored]
    fingerprints = [statistics.fingerprint for statistics in cases if statistics.fingerprint is not None]
    return ContrastStatistics(
        low=float(np.median([statistics.low for statistics in cases])),
        high=float(np.median([statistics.high for statistics in cases])),
        integer=all(statistics.integer for statistics in cases),
        spacing_mm=np.median([statistics.spacing_mm for statistics in cases], axis=0).tolist(),
        histogram=np.sum([statistics.histogram for statistics in cases], axis=0).tolist(),
        cases=len(stored),
        slices=sum(entry.count for entry in stored),
        fingerprint=cohort_fingerprint(fingerprints, coverage.mm) if fingerprints else None,
    )


def training_data(prepared: PreparedData) -> dict[str, list[float]]:
    """Return a description of the training data, with which a resumed run checks that its data is unchanged.

    An image's name -> number of slices and intensity range; a pair's names -> number of slices and rigid transform,
    rounded to 0.001 (mm).
    """
    images: dict[str, list[float]] = {
        entry.case.name: [entry.count, entry.statistics.low, entry.statistics.high]
        for entries in prepared.stored.values()
        for entry in entries
    }
    pair_entries: dict[str, list[float]] = {}
    for pair in prepared.pairs:
        rounded = np.ravel(pair.rigid_transform).round(3).tolist()
        pair_entries[" and ".join(case.name for case in pair.cases)] = [pair.first.count, *rounded]
    return images | pair_entries


def require_same_data(saved: dict[str, list[float]], current: dict[str, list[float]], folder: Path) -> None:
    """Refuse to resume a run with other `training_data` than it began with.

    Raises:
        UserError: Names the images that are missing, new or changed.
    """
    different = sorted(name for name in saved.keys() | current.keys() if saved.get(name) != current.get(name))
    if different:
        raise UserError(
            f"{folder}: the training data changed since the run began ({shortlist(different)}); restore them, or set "
            "another output"
        )
