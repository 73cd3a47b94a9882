"""From a configuration to the training data: cases, split, slices and the cohort's intensity statistics."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.config.schema import Config, Preprocess
from pipeline.data.case import Case, pairs
from pipeline.data.coverage import FULL_COVERAGE, Coverage
from pipeline.data.fingerprint import cohort_fingerprint
from pipeline.data.slice_cache import StoredCase, StoredPair, build_slice_cache
from pipeline.data.splits import CohortSplit
from pipeline.data.statistics import ContrastStatistics
from pipeline.runs.contrast_warnings import warn_of_ids, warn_of_stored
from pipeline.runs.coverage_choice import choose_coverage, pairs_within_coverage, shown_mm, within_coverage
from pipeline.utils.errors import UserError
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """The data of a run.

    Attributes:
        cases: All cases of the source.
        split: Subjects of training, validation and test.
        stored: Contrast -> its training cases, as slices in the slice cache.
        statistics: Contrast -> statistics of its training cohort.
        left_out: Training case that could not be used -> reason.
        pairs: Registered pairs of training cases, for methods that learn from pairs.
        coverage: Range of the head that is trained on.
    """

    cases: tuple[Case, ...]
    split: CohortSplit
    stored: dict[str, list[StoredCase]]
    statistics: dict[str, ContrastStatistics]
    left_out: dict[Case, str]
    pairs: tuple[StoredPair, ...] = ()
    coverage: Coverage = FULL_COVERAGE

    @property
    def longest(self) -> int:
        """Number of training slices: of pairs if training uses them, else of the contrast that has more."""
        if self.pairs:
            return sum(pair.first.count for pair in self.pairs)
        return max(statistics.slices for statistics in self.statistics.values())

    @property
    def histograms(self) -> dict[str, list[float]]:
        """Histogram of the training cohort's foreground over [-1, 1], by contrast."""
        return {contrast: statistics.histogram for contrast, statistics in self.statistics.items()}

    @property
    def training_cases(self) -> list[Case]:
        """All cases of the training subjects, including those that unpaired training does not show the model."""
        subjects = {case.subject for cases in self.split.train.values() for case in cases}
        return [case for case in self.cases if case.subject in subjects and case.contrast in self.split.train]


def chain_settings(preprocess: Preprocess, version: int = CHAIN_VERSION) -> PreprocessSettings:
    """Return a configuration's settings of the slice chain.

    Args:
        preprocess: The configuration's section.
        version: Version of the chain; a run keeps the version that it began with (`chain_version`).
    """
    spacing = preprocess.spacing_mm
    return PreprocessSettings(
        axis=preprocess.axis,
        spacing_mm=None if spacing is None else (spacing.in_plane, spacing.through_plane),
        size=preprocess.size,
        n4=preprocess.n4,
        percentiles=preprocess.percentiles if preprocess.scaling == "percentiles" else None,
        version=version,
    )


def chain_version(checkpoint: Mapping[str, object] | None) -> int:
    """Return the version of the slice chain in a checkpoint; without a checkpoint, the version of new runs."""
    return CHAIN_VERSION if checkpoint is None else int(checkpoint.get("chain_version", 1))


def registrations(store: Path) -> Path:
    """Return the folder of the slice cache that keeps registrations, shared by all runs."""
    return store / "registrations"


def prepare(
    config: Config,
    cases: Sequence[Case],
    split: CohortSplit,
    *,
    saved_coverage: Path | None = None,
    paired: bool = False,
    quiet: bool = False,
    version: int = CHAIN_VERSION,
) -> PreparedData:
    """Fill the slice cache with the training cases, and with registered pairs if `paired`.

    Training uses the slices in the range of the head given by `preprocess.coverage_mm`, or saved by a resumed run.

    Args:
        config: Configuration of the run.
        cases: All cases of the source.
        split: Subjects of training, validation and test.
        saved_coverage: File with the range of a resumed run; None for a new run.
        paired: Whether the method learns from registered pairs.
        quiet: Whether to leave out progress bars.
        version: Version of the slice chain; see `chain_settings`.

    Raises:
        UserError: No data, too few subjects, or no usable image of a contrast, or no usable pair.
    """
    warn_of_ids(config, cases, split)
    if paired:
        warn_unpaired(config, cases, split)

    # Cut the training images into slices, and keep those within the range of the head.
    training = [case for contrast in config.contrasts for case in split.train[contrast]]
    preprocess = config.preprocess
    settings, min_foreground = chain_settings(preprocess, version), preprocess.min_foreground
    cache_options = {"processes": preprocess.processes, "on_bad_volume": preprocess.on_bad_volume, "quiet": quiet}
    stored, left_out = build_slice_cache(training, preprocess.store, settings, min_foreground, **cache_options)
    uncut = {contrast: [entry for entry in stored if entry.case.contrast == contrast] for contrast in config.contrasts}
    lengths = {contrast: [shown_mm(entry) for entry in entries] for contrast, entries in uncut.items()}
    coverage = choose_coverage(preprocess.coverage_mm, preprocess.axis, lengths, saved_coverage)
    by_contrast, beyond = within_coverage(uncut, coverage, on_bad_volume=preprocess.on_bad_volume)
    left_out |= beyond

    # Refuse a contrast without images, and warn of what was left out.
    for contrast, entries in by_contrast.items():
        if not entries:
            raise UserError(f"no {contrast} image of the training subjects could be used; the reasons are above")
    if left_out:
        logger.warning(f"{len(left_out)} of {len(training)} training images were left out, named above")
    warn_of_stored(config, uncut, coverage, paired=paired)
    statistics = {contrast: cohort_statistics(entries, coverage) for contrast, entries in by_contrast.items()}
    prepared = PreparedData(tuple(cases), split, by_contrast, statistics, left_out, coverage=coverage)
    if not paired:
        return prepared
    return _with_pairs(prepared, config, settings, cache_options)


def _with_pairs(
    prepared: PreparedData, config: Config, settings: PreprocessSettings, cache_options: dict
) -> PreparedData:
    """Return prepared data with the registered pairs of its usable training images."""
    from pipeline.data.pair_cache import PairSettings, build_pair_cache

    usable = {entry.case for entries in prepared.stored.values() for entry in entries}
    training_pairs = pairs([case for side in prepared.split.train.values() for case in side], config.contrasts)
    usable_pairs = [pair for pair in training_pairs if usable.issuperset(pair)]
    if not usable_pairs:
        raise UserError(
            f"paired training needs a subject with both {' and '.join(config.contrasts)}: of "
            f"{len({first.subject for first, _ in training_pairs})} training subjects with both, none has two images "
            "that could be used; the reasons are above"
        )
    folder, cache = config.preprocess.store, registrations(config.preprocess.store)
    options = PairSettings(settings, config.preprocess.min_foreground, config.evaluation.register_pairs)
    stored, failures = build_pair_cache(usable_pairs, folder, options, cache=cache, **cache_options)
    stored, beyond = pairs_within_coverage(stored, prepared.coverage, prepared.stored)
    if not stored:
        raise UserError(f"none of {len(usable_pairs)} pairs could be used; the reasons are above")
    failures |= beyond
    if len(stored) < len(training_pairs):
        logger.warning(f"{len(training_pairs) - len(stored)} of {len(training_pairs)} training pairs were left out")
    left_out = {case: reason for pair, reason in failures.items() for case in pair}
    for pair in training_pairs:
        for case, partner in (pair, pair[::-1]):
            if partner not in usable:
                left_out[case] = f"its partner {partner.path} could not be used"
    return replace(prepared, pairs=tuple(stored), left_out=left_out | prepared.left_out)


def warn_unpaired(config: Config, cases: Sequence[Case], split: CohortSplit) -> None:
    """Warn of images that paired training leaves out: those without a partner of the same subject and session."""
    if config.split.file is not None:  # the file names all images explicitly
        return
    paired = {case for pair in pairs(cases, config.contrasts) for case in pair}
    held_out = {case.subject for case in (*split.validation, *split.test)}
    names = [
        case.name
        for case in cases
        if case.contrast in config.contrasts and case not in paired and case.subject not in held_out
    ]
    if names:
        logger.warning(f"left out of paired training for want of a partner in the other contrast: {shortlist(names)}")


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


def training_data(prepared: PreparedData) -> dict[str, list]:
    """Return a description of the training data, with which a resumed run checks that its data is unchanged.

    An image's name -> number of slices and intensity range; a pair's names -> number of slices and rigid transform,
    rounded to 0.001 (mm).
    """
    images = {
        entry.case.name: [entry.count, entry.statistics.low, entry.statistics.high]
        for entries in prepared.stored.values()
        for entry in entries
    }
    pair_entries = {}
    for pair in prepared.pairs:
        rounded = np.ravel(pair.rigid_transform).round(3).tolist()
        pair_entries[" and ".join(case.name for case in pair.cases)] = [pair.first.count, *rounded]
    return images | pair_entries


def require_same_data(saved: dict[str, list], current: dict[str, list], folder: Path) -> None:
    """Refuse to resume a run with other training data than it began with.

    Args:
        saved: `training_data` of the run's beginning.
        current: `training_data` now.
        folder: Folder of the run, for the message.

    Raises:
        UserError: Names the images that are missing, new or changed.
    """
    different = sorted(name for name in saved.keys() | current.keys() if saved.get(name) != current.get(name))
    if different:
        raise UserError(
            f"{folder}: the training data changed since the run began ({shortlist(different)}); restore them, or set "
            "another output"
        )


def shortlist(names: Sequence[str], limit: int = 5) -> str:
    """Return the first few names, and the number of the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
