"""From a trained model and test subjects to scores: translations beside baselines, in named protocols."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PairReader, PreparedScan, View, write_rigid_transform
from pipeline.evaluation.parallel_scoring import (
    READ_AHEAD,
    EvaluationCallback,
    Pair,
    PendingSubject,
    Translation,
    collect,
    read_pair,
    read_scan,
    submit,
)
from pipeline.evaluation.scores import UNPAIRED, Scores, SubjectScore
from pipeline.metrics.baselines import copy_input, fit_lookup, histogram_quantiles, look_up, match_histogram
from pipeline.metrics.names import COPY, HISTOGRAM, LOOKUP, MODEL
from pipeline.metrics.protocols import OWN, PUBLISHED, Measured
from pipeline.metrics.similarity import intensity_distance, mae
from pipeline.utils.console import progress
from pipeline.utils.errors import UserError
from pipeline.utils.workers import WorkerPool

logger = logging.getLogger(__name__)

MAX_LOOKUP_PAIRS = 8  # more change a table of 128 entries little, and each may cost a registration
MAX_NAMES = 5  # in a note
VOXEL_STEP = 4  # for the lookup every fourth voxel of the head is plenty, and eight heads fit into memory

Translate = Callable[[PreparedScan, str], np.ndarray]  # a scan and the target contrast -> slices (N, H, W) in [-1, 1]
Baselines = dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]  # name -> (source, foreground) -> prediction


OnTranslation = Callable[[Translation], None]


def _ignore(_: Translation) -> None:
    """Do nothing with a translation."""


def evaluate(
    test: Sequence[Case],
    training_pairs: Sequence[Pair],
    contrasts: tuple[str, str],
    translate: Translate,
    *,
    reader: PairReader,
    histograms: Mapping[str, Sequence[float]],
    protocols: Sequence[str] = (),
    registrations: Path | None = None,
    on_translation: OnTranslation = _ignore,
    callbacks: Mapping[str, EvaluationCallback] | None = None,
    workers: WorkerPool | None = None,
    quiet: bool = False,
) -> Scores:
    """Score a model and the baselines on the test subjects, in both directions.

    Each real target keeps its own normalisation and is brought onto its source's grid. All figures are of the source's
    field of view, without padding. Where no test subject has a pair, `evaluate_unpaired` is used.

    Args:
        test: The test subjects' cases.
        training_pairs: Training subjects' cases of both contrasts, for the lookup baseline alone; may be empty.
        contrasts: The two contrasts' names.
        translate: Function that translates a scan's slices with the model.
        reader: Reads and registers pairs.
        histograms: The training cohort's foreground intensities by contrast, in equal bins over [-1, 1].
        protocols: Published protocols to score in besides our own: "syndiff", "selfrdb", "reggan".
        registrations: Folder for the rigid transforms of the pairs; None keeps them in the cache only.
        on_translation: Function that is called with each translation in this process, which then releases it.
        callbacks: Callbacks that draw or write each translation in the worker that scores it, by their product's name.
        workers: Processes that read, register, score and draw while the networks run in this one; None for this one.
            The scores do not depend on it.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: there is no test case, or none could be evaluated.
    """
    test_pairs = pairs(test, contrasts)
    if not test_pairs:
        return evaluate_unpaired(
            test, contrasts, translate, reader=reader, histograms=histograms, on_translation=on_translation,
            callbacks=callbacks, workers=workers, quiet=quiet,
        )  # fmt: skip
    workers, callbacks = workers or WorkerPool(1), callbacks or {}

    # Fit the baselines on the training subjects.
    scores = Scores(paired=True)
    baselines, scores.notes = _fit_baselines(training_pairs, contrasts, reader, histograms, workers, quiet)
    scores.notes += _without_partner(test, test_pairs)

    def pending_subjects() -> Iterator[PendingSubject]:
        views = workers.imap(read_pair, [(reader, pair) for pair in test_pairs], READ_AHEAD)
        for pair, result in zip(test_pairs, views, strict=True):
            name = "_".join(label for label in (pair[0].subject, pair[0].session) if label)
            if isinstance(result, str):
                yield name, result, []
                continue
            forward_view, backward_view, rigid_transform = result
            if registrations is not None and not np.array_equal(rigid_transform, np.eye(4)):
                path = registrations / f"{name}_{contrasts[0]}-to-{contrasts[1]}.json"
                write_rigid_transform(path, rigid_transform, [case.path for case in pair])
            jobs = []
            for view, case, target in ((forward_view, pair[0], contrasts[1]), (backward_view, pair[1], contrasts[0])):
                translation = Translation(case, target, view.source, translate(view.source, target), view)
                on_translation(translation)
                score = partial(_score_pair, name, baselines[target], protocols, threads=_threads(workers))
                jobs.append(submit(workers, score, translation, callbacks))
            yield name, None, jobs

    # Translate the test pairs, and collect their scores.
    bar = progress(None, total=len(test_pairs), title="evaluation", unit="subject", quiet=quiet)
    collect(scores, pending_subjects(), callbacks, workers, bar)
    _require_some(scores, len(test_pairs))
    return scores


def evaluate_unpaired(
    test: Sequence[Case],
    contrasts: tuple[str, str],
    translate: Translate,
    *,
    reader: PairReader,
    histograms: Mapping[str, Sequence[float]],
    on_translation: OnTranslation = _ignore,
    callbacks: Mapping[str, EvaluationCallback] | None = None,
    workers: WorkerPool | None = None,
    quiet: bool = False,
) -> Scores:
    """Score without pairs: the cycle error, and how far intensities lie from those of the target's training cohort.

    Arguments as in `evaluate`. Copy and histogram matching have an intensity distance and no cycle.

    Raises:
        UserError: there is no test case, or none could be read.
    """
    if not test:
        raise UserError("there is no test subject to evaluate; set split.test")
    scores = Scores(paired=False, notes=["no test subject has both contrasts, so there were no pairs to compare with"])
    quantiles = {contrast: histogram_quantiles(histograms[contrast]) for contrast in contrasts}
    workers, callbacks = workers or WorkerPool(1), callbacks or {}

    def pending_subjects() -> Iterator[PendingSubject]:
        scans = workers.imap(read_scan, [(reader, case) for case in test], READ_AHEAD)
        for case, source in zip(test, scans, strict=True):
            if isinstance(source, str):
                yield case.name, source, []
                continue
            to = contrasts[1 - contrasts.index(case.contrast)]
            translation = Translation(case, to, source, translate(source, to))
            on_translation(translation)
            cycled = translate(replace(source, slices=translation.slices), case.contrast)  # F(G(x))
            score = partial(_score_unpaired, cycled, quantiles[to])
            yield case.name, None, [submit(workers, score, translation, callbacks)]

    # Translate the scans, and collect their scores.
    bar = progress(None, total=len(test), title="evaluation", unit="scan", quiet=quiet)
    collect(scores, pending_subjects(), callbacks, workers, bar)
    _require_some(scores, len(test))
    return scores


def _score_pair(
    name: str, baselines: Baselines, protocols: Sequence[str], translation: Translation, *, threads: int
) -> list[SubjectScore]:
    """Return every system's figures for a translation whose real target is known."""
    case, view = translation.case, translation.view
    predictions = _predictions(view.source, translation.slices, baselines)
    return [
        SubjectScore(name, case.contrast, translation.to, system, protocol, measured)
        for system, protocol, measured in _measure_all(predictions, view, protocols, threads)
    ]


def _score_unpaired(cycled: np.ndarray, quantiles: np.ndarray, translation: Translation) -> list[SubjectScore]:
    """Return the figures of a translation without a real target; `cycled` is F(G(x)), still padded."""
    case, source, scores = translation.case, translation.scan, []
    baselines = {COPY: copy_input, HISTOGRAM: partial(match_histogram, target_quantiles=quantiles)}
    cycled = source.unpadded(cycled)
    for system, prediction in _predictions(source, translation.slices, baselines).items():
        distance = intensity_distance(prediction[source.foreground], quantiles)
        measured = {"volume/foreground/intensity_distance": np.array([distance])}
        if system == MODEL:
            measured["volume/image/cycle_error"] = np.array([mae(cycled, source.stack)])
            measured["volume/foreground/cycle_error"] = np.array([mae(cycled, source.stack, source.foreground)])
        scores.append(SubjectScore(case.name, case.contrast, translation.to, system, UNPAIRED, measured))
    return scores


def _threads(workers: WorkerPool) -> int:
    """Return the number of threads for measuring: one in worker processes, which fill the cores by themselves."""
    return 1 if workers.processes > 1 else os.cpu_count() or 1


def _without_partner(test: Sequence[Case], test_pairs: Sequence[Pair]) -> list[str]:
    """Return a note that names the scans without a partner; no note where there are none."""
    paired = {case for pair in test_pairs for case in pair}
    names = [case.name for case in test if case not in paired]
    if not names:
        return []
    noun, verb = ("scan has", "was") if len(names) == 1 else ("scans have", "were")
    listed = ", ".join(names[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "")
    return [f"{len(names)} test {noun} no partner in the other contrast and {verb} not scored: {listed}"]


def _fit_baselines(
    training_pairs: Sequence[Pair],
    contrasts: tuple[str, str],
    reader: PairReader,
    histograms: Mapping[str, Sequence[float]],
    workers: WorkerPool,
    quiet: bool,
) -> tuple[dict[str, Baselines], list[str]]:
    """Return the baselines by target contrast, and notes about them."""
    baselines: dict[str, Baselines] = {
        contrast: {
            COPY: copy_input,
            HISTOGRAM: partial(match_histogram, target_quantiles=histogram_quantiles(histograms[contrast])),
        }
        for contrast in contrasts
    }
    fitting_pairs = training_pairs[:: max(1, -(-len(training_pairs) // MAX_LOOKUP_PAIRS))]
    voxels = []
    intensities_of_pairs = workers.imap(_training_voxels, [(reader, pair) for pair in fitting_pairs], workers.processes)
    bar = progress(fitting_pairs, title="lookup", unit="pair", quiet=quiet or not fitting_pairs)
    for pair, intensities in zip(bar, intensities_of_pairs, strict=True):
        if isinstance(intensities, str):
            logger.warning(f"{pair[0].subject}: {intensities}; left out of the lookup's training pairs")
        else:
            voxels.append(intensities)
    if not voxels:
        return baselines, ["no training subject has both contrasts, so there is no lookup"]
    for to, contrast in enumerate(contrasts):
        table = fit_lookup((pair[1 - to], pair[to]) for pair in voxels)
        baselines[contrast][LOOKUP] = partial(look_up, table=table)
    return baselines, [
        f"the lookup was fitted on {len(voxels)} training pairs; a model that trains without pairs never sees them"
    ]


def _training_voxels(reader: PairReader, pair: Pair) -> tuple[np.ndarray, np.ndarray] | str:
    """Return a training pair's intensities voxel by voxel in the head, or the reason why it cannot be used."""
    result = read_pair(reader, pair)
    if isinstance(result, str):
        return result
    view, _, _ = result
    region = view.source.foreground & view.foreground
    return view.source.stack[region][::VOXEL_STEP].copy(), view.real[region][::VOXEL_STEP].copy()


def _predictions(source: PreparedScan, translated: np.ndarray, baselines: Baselines) -> dict[str, np.ndarray]:
    """Return every system's prediction, unpadded, (N, h, w) in [-1, 1]."""
    stack = source.stack
    return {MODEL: source.unpadded(translated)} | {
        name: baseline(stack, source.foreground) for name, baseline in baselines.items()
    }


def _measure_all(
    predictions: Mapping[str, np.ndarray], view: View, protocols: Sequence[str], threads: int
) -> list[tuple[str, str, Measured]]:
    """Return (system, protocol, measured) for every system and protocol; in threads, for numpy frees the GIL."""
    protocols_used = [OWN, *(PUBLISHED[name] for name in protocols)]
    jobs = [(system, protocol) for protocol in protocols_used for system in predictions]
    with ThreadPoolExecutor(min(len(predictions), threads)) as pool:
        target = (view.real, view.foreground, view.source.spacing_mm)
        measured = pool.map(lambda job: job[1].measure(predictions[job[0]], *target), jobs)
    return [(system, protocol.name, values) for (system, protocol), values in zip(jobs, measured, strict=True)]


def _require_some(scores: Scores, requested: int) -> None:
    if not scores.subjects:
        raise UserError(f"none of {requested} test subjects could be evaluated; the reasons are above")
