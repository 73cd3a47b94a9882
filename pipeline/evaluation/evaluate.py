"""From a trained model and test subjects to scores: translations beside baselines, in named protocols.

Workers read the images, this process translates them, and workers score, draw and write. Results are collected in the
subjects' order, so they are the same for any number of workers. Few subjects are in memory at a time.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.case import Case, other_contrast, pairs
from pipeline.data.pairs import PairReader, PreparedScan, write_rigid_transform
from pipeline.data.regions import Views, with_regions
from pipeline.evaluation.scores import Baselines, Scores, SubjectScore, Translation, score_pair, score_unpaired
from pipeline.metrics.baselines import (
    copy_input,
    fit_lookup,
    histogram_quantiles,
    look_up,
    look_up_in_context,
    match_histogram,
)
from pipeline.metrics.names import CONTEXT, COPY, HISTOGRAM, LOOKUP
from pipeline.utils.console import bar, progress
from pipeline.utils.errors import DiskFull, Stopped, UserError, first_cause
from pipeline.utils.workers import WorkerPool
from transforms.context_lookup import ContextTable

logger = logging.getLogger(__name__)

READ_AHEAD = 3  # subjects: reading a pair takes a tenth of the time of scoring it, and 0.2 GB until it is scored
PRELOAD = ["transforms.slice_chain", "pipeline.evaluation.evaluate"]
MAX_LOOKUP_PAIRS = 8  # more change a table of 128 entries little, and each may cost a registration
MAX_NAMES = 5  # in a note
VOXEL_STEP = 4  # for the lookup every fourth voxel of the head is plenty, and eight heads fit into memory

Pair = tuple[Case, Case]
Score = Callable[[Translation], list[SubjectScore]]
Products = dict[str, dict[Case, Any]]  # name -> source -> what the product's function returned


def evaluate(
    test: Sequence[Case],
    training_pairs: Sequence[Pair],
    contrasts: tuple[str, str],
    translate: Callable[[PreparedScan, str], np.ndarray],
    *,
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
    quiet: bool = False,
) -> tuple[Scores, Products]:
    """Score a model and the baselines on the test subjects, in both directions.

    Each real target keeps its own normalisation and is brought onto its source's grid. All figures are of the source's
    field of view, without padding. Where no test subject has a pair, the cycle error is measured, and how far
    intensities lie from those of the target's training cohort; copy and histogram matching have no cycle.

    Args:
        training_pairs: Training subjects' cases of both contrasts, for the lookup baseline alone; may be empty.
        translate: A scan and a target contrast -> the translated slices (N, H, W) in [-1, 1].
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

    Raises:
        UserError: there is no test case, or none could be evaluated.
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
    baselines: dict[str, Baselines] = {
        contrast: {COPY: copy_input, HISTOGRAM: partial(match_histogram, target_quantiles=quantiles[contrast])}
        for contrast in contrasts
    }
    for contrast, table in (context_tables or {}).items():
        baselines[contrast][CONTEXT] = partial(look_up_in_context, table=table)
    if test_pairs:
        scores.notes += [_add_lookup(baselines, training_pairs, contrasts, reader, workers, quiet)]
        scores.notes += [*_without_partner(images), *_without_region(test_pairs, regions or {})]
        images = images if all_images else []
    else:
        scores.notes.append("no test subject has both contrasts, so there were no pairs to compare with")

    # Translate pairs in this process, while workers read the next ones and score what was translated before.
    threads = 1 if workers.processes > 1 else os.cpu_count() or 1  # worker processes fill the cores by themselves
    with bar(total=len(paired) + len(images), desc="evaluation", unit="image", disable=quiet) as progress_bar:
        scoring = _Scoring(scores, on_translation, products or {}, workers, progress_bar.update)
        files = [(regions or {}).get(pair[0].scan_name, {}) for pair in test_pairs]
        readings = [
            (partial(_read_with_regions, reader, paths), pair) for paths, pair in zip(files, test_pairs, strict=True)
        ]
        views = workers.imap(read_or_reason, readings, READ_AHEAD)
        for pair, result in zip(test_pairs, views, strict=True):
            if isinstance(result, str):
                _leave_out(scores, pair[0].scan_name, result)
                images += pair if all_images else []  # one of the two may be readable
                continue
            both_views, rigid_transform, notes = result
            scores.notes += notes
            if registrations is not None and not np.array_equal(rigid_transform, np.eye(4)):
                path = registrations / f"{pair[0].scan_name}_{contrasts[0]}-to-{contrasts[1]}.json"
                write_rigid_transform(path, rigid_transform, [case.path for case in pair])
            for view, case, to in zip(both_views, pair, contrasts[::-1], strict=True):
                translation = Translation(case, to, view.source, translate(view.source, to), view)
                scoring.add(translation, partial(score_pair, baselines[to], protocols, threads))

        # Translate the other images, which are scored only where there is no pair at all.
        scans = workers.imap(read_or_reason, [(reader.scan, case.path) for case in images], READ_AHEAD)
        for case, scan in zip(images, scans, strict=True):
            to = other_contrast(contrasts, case.contrast)
            if isinstance(scan, str) and test_pairs:
                logger.warning(f"{scan}; not translated")
            elif isinstance(scan, str):
                _leave_out(scores, case.name, scan)
            else:
                translation = Translation(case, to, scan, translate(scan, to))
                score: Score | None = None
                if not test_pairs:
                    cycled = translate(replace(scan, slices=translation.slices), case.contrast)  # F(G(x))
                    score = partial(score_unpaired, cycled, quantiles[to], baselines[to])
                scoring.add(translation, score)
        scoring.collect()
    if not scores.subjects:
        raise UserError(f"none of {len(test_pairs or test)} test subjects could be evaluated; the reasons are above")
    return scores, scoring.outputs


def read_or_reason(read: Callable[[Any], Any], images: object) -> Any:
    """Return what `PairReader.read` or `scan` makes of images, or why they are unusable. Runs in a worker."""
    try:
        return read(images)
    except DiskFull:  # no fault of the images': a report without them would pass for a whole one
        raise
    except UserError as error:
        return str(error)


def _read_with_regions(
    reader: PairReader, files: Mapping[str, Path], pair: Pair
) -> tuple[Views, np.ndarray, list[str]]:
    """Return a pair's views with their regions, its rigid transform, and notes on regions that could not be used."""
    first, second, rigid_transform = reader.read(pair)
    views, notes = with_regions((first, second), rigid_transform, files)
    return views, rigid_transform, notes


class _Scoring:
    """Scores translations in workers, and adds the results to `scores` in their order; `outputs` holds the products."""

    def __init__(
        self,
        scores: Scores,
        on_translation: Callable[[Translation], object] | None,
        products: Mapping[str, Callable[[Translation], object]],
        workers: WorkerPool,
        on_collected: Callable[[], object],
    ):
        self.scores, self.on_translation, self.products = scores, on_translation, products
        self.workers, self.on_collected = workers, on_collected
        self.outputs: Products = {name: {} for name in products}
        self.waiting: deque[Callable[[], Any]] = deque()

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


def _leave_out(scores: Scores, name: str, reason: str) -> None:
    scores.failures[name] = reason
    logger.warning(f"{name}: {reason}; left out of the evaluation")


def _without_partner(unpaired: Sequence[Case]) -> list[str]:
    """Return a note that names the scans without a partner; no note where there are none."""
    if not unpaired:
        return []
    noun, verb = ("scan has", "was") if len(unpaired) == 1 else ("scans have", "were")
    listed = ", ".join([case.name for case in unpaired[:MAX_NAMES]] + ["…"] * (len(unpaired) > MAX_NAMES))
    return [f"{len(unpaired)} test {noun} no partner in the other contrast and {verb} not scored: {listed}"]


def _without_region(test_pairs: Sequence[Pair], regions: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """Return a note for each region that some scans of pairs have no file of."""
    notes, scans = [], [first.scan_name for first, _ in test_pairs]
    for name in dict.fromkeys(name for files in regions.values() for name in files):
        missing = [scan for scan in scans if name not in regions.get(scan, {})]
        if missing:
            listed = ", ".join(missing[:MAX_NAMES] + ["…"] * (len(missing) > MAX_NAMES))
            notes.append(f"no file of the region {name} for {len(missing)} of {len(scans)} test scans: {listed}")
    return notes


def _add_lookup(
    baselines: Mapping[str, Baselines],
    training_pairs: Sequence[Pair],
    contrasts: tuple[str, str],
    reader: PairReader,
    workers: WorkerPool,
    quiet: bool,
) -> str:
    """Fit the intensity lookup and add it to the baselines of each target contrast; return a note about it."""
    fitting_pairs = training_pairs[:: max(1, -(-len(training_pairs) // MAX_LOOKUP_PAIRS))]
    voxels = []
    results = workers.imap(_training_voxels, [(reader, pair) for pair in fitting_pairs], workers.processes)
    pairs_with_bar = progress(fitting_pairs, title="lookup", unit="pair", quiet=quiet or not fitting_pairs)
    for pair, intensities in zip(pairs_with_bar, results, strict=True):
        if isinstance(intensities, str):
            logger.warning(f"{pair[0].subject}: {intensities}; left out of the lookup's training pairs")
        else:
            voxels.append(intensities)
    if not voxels:
        return "no training subject has both contrasts, so there is no lookup"
    for to, contrast in enumerate(contrasts):
        table = fit_lookup((intensities[1 - to], intensities[to]) for intensities in voxels)
        baselines[contrast][LOOKUP] = partial(look_up, table=table)
    return f"the lookup was fitted on {len(voxels)} training pairs; a model that trains without pairs never sees them"


def _training_voxels(reader: PairReader, pair: Pair) -> tuple[np.ndarray, np.ndarray] | str:
    """Return a training pair's intensities voxel by voxel in the head, or the reason why it cannot be used."""
    result = read_or_reason(reader.read, pair)
    if isinstance(result, str):
        return result
    view, _, _ = result
    region = view.source.foreground & view.foreground
    return view.source.stack[region][::VOXEL_STEP].copy(), view.real[region][::VOXEL_STEP].copy()
