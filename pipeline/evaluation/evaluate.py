"""From a trained model and test subjects to scores: translations beside baselines, in named protocols.

Workers read the images, this process translates them, and workers score, draw and write. Results are collected in the
subjects' order, so they are the same for any number of workers. Few subjects are in memory at a time.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.case import Case, other_contrast, pairs
from pipeline.data.pairs import PairReader, PreparedScan, read_or_reason, write_rigid_transform
from pipeline.data.regions import Views, with_regions
from pipeline.evaluation.fitted_baselines import paired_lookups, unpaired_baselines
from pipeline.evaluation.scores import Scores, SubjectScore, Translation, score_pair, score_unpaired
from pipeline.metrics.baselines import Baselines, histogram_quantiles
from pipeline.metrics.names import LOOKUP
from pipeline.utils.console import bar, shortlist
from pipeline.utils.errors import DiskFull, Stopped, UserError, first_cause
from pipeline.utils.workers import WorkerPool
from transforms.context_lookup import ContextTable

logger = logging.getLogger(__name__)

READ_AHEAD = 3  # subjects: reading a pair takes a tenth of the time of scoring it, and 0.2 GB until it is scored
PRELOAD = ["transforms.slice_chain", "pipeline.evaluation.evaluate"]

Pair = tuple[Case, Case]
Score = Callable[[Translation], list[SubjectScore]]
Products = dict[str, dict[Case, Any]]  # name -> source -> what the product's function returned


def evaluate(
    test: Sequence[Case],
    training_pairs: Sequence[Pair],
    contrasts: tuple[str, str],
    translate: Callable[[PreparedScan, str], np.ndarray],
    *,
    translate_start: Callable[[PreparedScan, str], np.ndarray | None] = lambda scan, to: None,
    reader: PairReader,
    histograms: Mapping[str, Sequence[float]],
    context_tables: Mapping[str, ContextTable] | None = None,
    protocols: Sequence[str] = (),
    regions: Mapping[str, Mapping[str, Path]] | None = None,
    registrations: Path | None = None,
    on_translation: Callable[[Translation], object] | None = None,
    products: Mapping[str, Callable[[Translation], object]] | None = None,
    all_images: bool = False,
    workers: WorkerPool | None = None,
    on_bad_volume: str = "skip",
    quiet: bool = False,
) -> tuple[Scores, Products]:
    """Score a model and the baselines on the test subjects, in both directions.

    Each real target keeps its own normalisation and is brought onto its source's grid. All figures are of the source's
    field of view, without padding. Where no test subject has a pair, the cycle error is measured, and how far
    intensities lie from those of the target's training cohort; copy and histogram matching have no cycle.

    Args:
        training_pairs: Training subjects' cases of both contrasts, for the lookup baseline alone; may be empty.
        translate: A scan and a target contrast -> the translated slices (N, H, W) in [-1, 1].
        translate_start: The same by what the model began with, a system of its own; None where it has none.
        histograms: The training cohort's foreground intensities by contrast, in equal bins over [-1, 1].
        context_tables: The context lookup by target contrast, fitted without pairs; None leaves that baseline out.
        protocols: Published protocols to score in besides our own: "syndiff", "selfrdb", "reggan".
        regions: Scan (subject and session) -> region -> its label map, to score within.
        registrations: Folder for the rigid transforms of the pairs; None keeps them in the cache only.
        on_translation: Called with each translation in this process.
        products: Picklable functions, by name, that draw or write each translation in the worker that scores it. One
            that fails costs a warning, but no score.
        all_images: Whether products are also made of images without a readable partner, which are not scored.
        workers: Processes that read, register, score and draw while the networks run in this one; None for this one.
        on_bad_volume: "skip" warns of test images that cannot be read and goes on without them, "stop" refuses them.

    Raises:
        UserError: there is no test case, none could be evaluated, or one could not and `on_bad_volume` is "stop".
        DiskFull: a disk is full.
    """
    if not test:
        raise UserError("there is no test subject to evaluate; set split.test")
    workers = workers or WorkerPool(1)
    test_pairs = pairs(test, contrasts)
    paired = {case for pair in test_pairs for case in pair}
    images = [case for case in test if case not in paired]  # to translate without a real target
    scores = Scores(paired=bool(test_pairs))

    # Fit the baselines on the training subjects.
    quantiles = {contrast: histogram_quantiles(histograms[contrast]) for contrast in contrasts}
    baselines = unpaired_baselines(quantiles, context_tables or {})
    if test_pairs:
        scores.subject_of = {first.scan_name: first.subject for first, _ in test_pairs if first.session}
        lookups, note = paired_lookups(training_pairs, contrasts, reader, workers, quiet=quiet)
        for contrast, lookup in lookups.items():
            baselines[contrast][LOOKUP] = lookup
        scores.notes += [note, *_without_partner(images), *_without_region(test_pairs, regions or {})]
        images = images if all_images else []
    else:
        scores.notes.append("no test subject has both contrasts, so there were no pairs to compare with")

    # Translate in this process, while workers read the next images and score what was translated before.
    with bar(total=len(paired) + len(images), desc="evaluation", unit="image", disable=quiet) as progress_bar:
        evaluation = _Evaluation(
            scores,
            translate,
            translate_start,
            reader,
            baselines,
            workers,
            progress_bar.update,
            on_translation,
            products or {},
            on_bad_volume,
        )
        unreadable = evaluation.translate_pairs(test_pairs, contrasts, protocols, regions or {}, registrations)
        images += unreadable if all_images else []
        evaluation.translate_images(images, contrasts, None if test_pairs else quantiles)
        evaluation.collect()
    if not scores.subjects:
        raise UserError(f"none of {len(test_pairs or test)} test subjects could be evaluated; the reasons are above")
    return scores, evaluation.outputs


def _read_with_regions(
    reader: PairReader, files: Mapping[str, Path], pair: Pair
) -> tuple[Views, np.ndarray, list[str]]:
    """Return a pair's views with their regions, its rigid transform, and notes on regions that could not be used."""
    first, second, rigid_transform = reader.read(pair)
    views, notes = with_regions((first, second), rigid_transform, files)
    return views, rigid_transform, notes


@dataclass
class _Evaluation:
    """Translations on their way to scores, which are added in their order; the arguments are those of `evaluate`."""

    scores: Scores
    translate: Callable[[PreparedScan, str], np.ndarray]
    translate_start: Callable[[PreparedScan, str], np.ndarray | None]
    reader: PairReader
    baselines: Mapping[str, Baselines]
    workers: WorkerPool
    on_collected: Callable[[], object]
    on_translation: Callable[[Translation], object] | None
    products: Mapping[str, Callable[[Translation], object]]
    on_bad_volume: str
    outputs: Products = field(default_factory=lambda: defaultdict(dict))  # what the products made
    waiting: deque[Callable[[], Any]] = field(default_factory=deque)  # for the results of workers

    def translate_pairs(
        self,
        test_pairs: Sequence[Pair],
        contrasts: tuple[str, str],
        protocols: Sequence[str],
        regions: Mapping[str, Mapping[str, Path]],
        registrations: Path | None,
    ) -> list[Case]:
        """Translate and score both sides of pairs; return those of pairs that could not be read."""
        readings = [
            (partial(_read_with_regions, self.reader, regions.get(pair[0].scan_name, {})), pair) for pair in test_pairs
        ]
        unreadable: list[Case] = []
        for pair, result in zip(test_pairs, self.workers.imap(read_or_reason, readings, READ_AHEAD), strict=True):
            if isinstance(result, str):
                self._leave_out(pair[0].scan_name, result)
                unreadable += pair  # one of the two may be readable
                continue
            views, rigid_transform, notes = result
            self.scores.notes += notes
            if registrations is not None and not np.array_equal(rigid_transform, np.eye(4)):
                path = registrations / f"{pair[0].scan_name}_{contrasts[0]}-to-{contrasts[1]}.json"
                write_rigid_transform(path, rigid_transform, [case.path for case in pair])
            for view, case, to in zip(views, pair, contrasts[::-1], strict=True):
                translated, start = self.translate(view.source, to), self.translate_start(view.source, to)
                translation = Translation(case, to, view.source, translated, view, start)
                self.add(translation, partial(score_pair, self.baselines[to], protocols))
        return unreadable

    def translate_images(
        self, images: Sequence[Case], contrasts: tuple[str, str], quantiles: Mapping[str, np.ndarray] | None
    ) -> None:
        """Translate images without a real target; they are scored by the quantiles of contrasts, if these are given."""
        readings = [(self.reader.scan, case.path) for case in images]
        for case, scan in zip(images, self.workers.imap(read_or_reason, readings, READ_AHEAD), strict=True):
            to = other_contrast(contrasts, case.contrast)
            if isinstance(scan, str):
                self._leave_out(case.name, scan, is_scored=quantiles is not None)
            else:
                translation = Translation(case, to, scan, self.translate(scan, to))
                score: Score | None = None
                if quantiles is not None:
                    cycled = self.translate(replace(scan, slices=translation.slices), case.contrast)  # F(G(x))
                    score = partial(score_unpaired, cycled, quantiles[to], self.baselines[to])
                self.add(translation, score)

    def add(self, translation: Translation, score: Score | None) -> None:
        """Hand a translation to a worker; waits for an earlier one where all are busy."""
        if self.on_translation is not None:
            self.on_translation(translation)
        self.waiting.append(self.workers.submit(_score_and_make, score, self.products, translation))
        self.collect(at_most=self.workers.processes if self.workers.processes > 1 else 0)

    def collect(self, at_most: int = 0) -> None:
        """Collect results until at most so many are awaited."""
        while len(self.waiting) > at_most:
            case, subject_scores, results, failures = self.waiting.popleft()()
            self.scores.subjects += subject_scores
            for name, result in results.items():
                self.outputs[name][case] = result
            for name, reason in failures.items():
                logger.warning(f"{case.path}: left out of the {name} ({reason}); its scores stand")
            self.on_collected()

    def _leave_out(self, name: str, reason: str, *, is_scored: bool = True) -> None:
        """Warn of an image that cannot be read, or refuse it where `on_bad_volume` is "stop"."""
        if self.on_bad_volume == "stop":
            raise UserError(f"{name}: {reason} (preprocess.on_bad_volume: skip would evaluate without it)")
        if is_scored:
            self.scores.failures[name] = reason
        logger.warning(f"{name}: {reason}; left out of the evaluation" if is_scored else f"{reason}; not translated")


def _score_and_make(
    score: Score | None, products: Mapping[str, Callable[[Translation], object]], translation: Translation
) -> tuple[Case, list[SubjectScore], dict[str, object], dict[str, str]]:
    """Return the case, its scores, its products, and the reasons why some failed. Runs in a worker."""
    results, failures = {}, {}
    for name, function in products.items():
        try:
            results[name] = function(translation)
        except (DiskFull, Stopped):
            raise
        except Exception as error:  # a failed picture must not cost the scores
            failures[name] = first_cause(error)
    return translation.case, score(translation) if score else [], results, failures


def _without_partner(unpaired: Sequence[Case]) -> list[str]:
    """Return a note that names the scans without a partner; no note where there are none."""
    if not unpaired:
        return []
    noun, verb = ("scan has", "was") if len(unpaired) == 1 else ("scans have", "were")
    listed = shortlist([case.name for case in unpaired])
    return [f"{len(unpaired)} test {noun} no partner in the other contrast and {verb} not scored: {listed}"]


def _without_region(test_pairs: Sequence[Pair], regions: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """Return a note for each region that some scans of pairs have no file of."""
    notes, scans = [], [first.scan_name for first, _ in test_pairs]
    for name in dict.fromkeys(name for files in regions.values() for name in files):
        missing = [scan for scan in scans if name not in regions.get(scan, {})]
        if missing:
            counts = f"{len(missing)} of {len(scans)} test scans"
            notes.append(f"no file of the region {name} for {counts}: {shortlist(missing)}")
    return notes
