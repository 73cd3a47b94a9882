"""From a trained model and test subjects to scores: translations beside baselines, in named protocols."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.console import progress, warn
from pipeline.data.case import Case, pairs
from pipeline.data.pairing import PairReader, PreparedScan, View, write_movement
from pipeline.errors import UserError
from pipeline.evaluation.scores import UNPAIRED, Scores, SubjectScore
from pipeline.metrics.agreement import intensity_distance, mae
from pipeline.metrics.baselines import HistogramMatch, IntensityLookup, copy_input, histogram_quantiles
from pipeline.metrics.names import COPY, HISTOGRAM, LOOKUP, MODEL
from pipeline.metrics.protocols import OWN, PUBLISHED, Measured

MAX_LOOKUP_PAIRS = 8  # more change a table of 128 entries little, and each may cost a registration
MOST_NAMES = 5  # in a note
VOXEL_STEP = 4  # for the lookup every fourth voxel of the head is plenty, and eight heads fit into memory

Translate = Callable[[PreparedScan, str], np.ndarray]  # a scan and the target contrast -> slices (N, H, W) in [-1, 1]
Baselines = dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]  # name -> (source, foreground) -> prediction
Pair = tuple[Case, Case]


@dataclass(frozen=True)
class Translation:
    """A test scan and what the model made of it: whoever wants to draw or to keep it need not make it again.

    Attributes:
        case: The source.
        to: The target contrast.
        scan: The source as the network took it.
        slices: (N, H, W) in [-1, 1], translated, still padded.
        view: The real target on the source's grid, None where there is none.
    """

    case: Case
    to: str
    scan: PreparedScan
    slices: np.ndarray
    view: View | None = None


Seen = Callable[[Translation], None]


def _pass_by(_: Translation) -> None:
    """Keep nothing of a translation."""


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
    seen: Seen = _pass_by,
    quiet: bool = False,
) -> Scores:
    """Score a model and the baselines on the test subjects, in both directions.

    Each real target keeps its own normalisation and is brought onto its source's grid; all figures are of the
    source's own field of view, padding removed. Where no test subject has a pair, what can be measured without one.

    Args:
        test: The test subjects' cases.
        training_pairs: Training subjects' cases of both contrasts, for the lookup baseline alone; may be empty.
        contrasts: The two contrasts' names.
        translate: The model.
        reader: Reads pairs.
        histograms: By contrast, the training cohort's foreground intensities in equal bins over [-1, 1].
        protocols: Published protocols to score in besides our own: "syndiff", "selfrdb", "reggan".
        registrations: Folder for the movements that were used; None keeps them in the cache only.
        seen: Shown every translation once, as soon as it is there; it is not held in memory after that.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: there is no test case, or none could be evaluated.
    """
    found = pairs(test, contrasts)
    if not found:
        return evaluate_unpaired(
            test, contrasts, translate, reader=reader, histograms=histograms, seen=seen, quiet=quiet
        )
    scores = Scores(paired=True)
    baselines, scores.notes = _fit_baselines(training_pairs, contrasts, reader, histograms, quiet)
    scores.notes += _without_partner(test, found)
    for pair in progress(found, title="evaluation", unit="subject", quiet=quiet):
        name = "_".join(part for part in (pair[0].subject, pair[0].session) if part)
        try:
            there, back, movement = reader.read(pair)
        except UserError as error:
            scores.failures[name] = str(error)
            warn(f"warning: {name}: {error}; left out of the evaluation")
            continue
        if registrations is not None and not np.array_equal(movement, np.eye(4)):
            write_movement(registrations / f"{name}_{contrasts[0]}-to-{contrasts[1]}.json", movement, pair)
        for view, case, target in ((there, pair[0], contrasts[1]), (back, pair[1], contrasts[0])):
            translated = translate(view.source, target)
            seen(Translation(case, target, view.source, translated, view))
            predictions = _predictions(view.source, translated, baselines[target])
            for system, protocol, measured in _measure_all(predictions, view, protocols):
                scores.subjects.append(SubjectScore(name, case.contrast, target, system, protocol, measured))
    _require_some(scores, len(found))
    return scores


def evaluate_unpaired(
    test: Sequence[Case],
    contrasts: tuple[str, str],
    translate: Translate,
    *,
    reader: PairReader,
    histograms: Mapping[str, Sequence[float]],
    seen: Seen = _pass_by,
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
    for case in progress(test, title="evaluation", unit="scan", quiet=quiet):
        to = contrasts[1 - contrasts.index(case.contrast)]
        try:
            source = reader.scan(case.path)
        except UserError as error:
            scores.failures[case.name] = str(error)
            warn(f"warning: {case.name}: {error}; left out of the evaluation")
            continue
        translated = translate(source, to)
        seen(Translation(case, to, source, translated))
        back = source.unpadded(translate(replace(source, slices=translated), case.contrast))  # F(G(x))
        baselines = {COPY: copy_input, HISTOGRAM: HistogramMatch(quantiles[to])}
        for system, prediction in _predictions(source, translated, baselines).items():
            distance = intensity_distance(prediction[source.foreground], quantiles[to])
            measured = {"volume/foreground/intensity_distance": np.array([distance])}
            if system == MODEL:
                measured["volume/image/cycle_error"] = np.array([mae(back, source.stack)])
                measured["volume/foreground/cycle_error"] = np.array([mae(back, source.stack, source.foreground)])
            scores.subjects.append(SubjectScore(case.name, case.contrast, to, system, UNPAIRED, measured))
    _require_some(scores, len(test))
    return scores


def _without_partner(test: Sequence[Case], found: Sequence[Pair]) -> list[str]:
    """Return a note that names the scans which are in no pair; none where there is no such scan."""
    paired = {case for pair in found for case in pair}
    names = [case.name for case in test if case not in paired]
    if not names:
        return []
    scans, were = ("scan has", "was") if len(names) == 1 else ("scans have", "were")
    listed = ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
    return [f"{len(names)} test {scans} no partner in the other contrast and {were} not scored: {listed}"]


def _fit_baselines(
    training_pairs: Sequence[Pair],
    contrasts: tuple[str, str],
    reader: PairReader,
    histograms: Mapping[str, Sequence[float]],
    quiet: bool,
) -> tuple[dict[str, Baselines], list[str]]:
    """Return the baselines by target contrast, and what to say about them."""
    baselines: dict[str, Baselines] = {
        contrast: {COPY: copy_input, HISTOGRAM: HistogramMatch(histogram_quantiles(histograms[contrast]))}
        for contrast in contrasts
    }
    chosen = training_pairs[:: max(1, -(-len(training_pairs) // MAX_LOOKUP_PAIRS))]
    voxels = list(_training_voxels(progress(chosen, title="lookup", unit="pair", quiet=quiet or not chosen), reader))
    if not voxels:
        return baselines, ["no training subject has both contrasts, so there is no lookup"]
    for to, contrast in enumerate(contrasts):
        columns = [(pair[1 - to], pair[to], np.ones(len(pair[0]), bool)) for pair in voxels]
        baselines[contrast][LOOKUP] = IntensityLookup.fit(columns)
    return baselines, [
        f"the lookup was fitted on {len(voxels)} training pairs; a model that trains without pairs never sees them"
    ]


def _training_voxels(chosen: Sequence[Pair], reader: PairReader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for each training pair that can be used, the two contrasts' intensities voxel by voxel in the head."""
    for pair in chosen:
        try:
            view, _, _ = reader.read(pair)
        except UserError as error:
            warn(f"warning: {pair[0].subject}: {error}; left out of the lookup's training pairs")
            continue
        both = view.source.foreground & view.foreground
        yield view.source.stack[both][::VOXEL_STEP], view.real[both][::VOXEL_STEP]


def _predictions(source: PreparedScan, translated: np.ndarray, baselines: Baselines) -> dict[str, np.ndarray]:
    """Return every system's prediction, unpadded, (N, h, w) in [-1, 1]."""
    stack = source.stack
    return {MODEL: source.unpadded(translated)} | {
        name: baseline(stack, source.foreground) for name, baseline in baselines.items()
    }


def _measure_all(
    predictions: Mapping[str, np.ndarray], view: View, protocols: Sequence[str]
) -> list[tuple[str, str, Measured]]:
    """Return (system, protocol, measured) for every system and protocol; side by side, for numpy frees the GIL."""
    chosen = [OWN, *(PUBLISHED[name] for name in protocols)]
    jobs = [(system, protocol) for protocol in chosen for system in predictions]
    with ThreadPoolExecutor(min(len(predictions), os.cpu_count() or 1)) as pool:
        target = (view.real, view.foreground, view.source.spacing_mm)
        measured = pool.map(lambda job: job[1].measure(predictions[job[0]], *target), jobs)
    return [(system, protocol.name, one) for (system, protocol), one in zip(jobs, measured, strict=True)]


def _require_some(scores: Scores, wanted: int) -> None:
    if not scores.subjects:
        raise UserError(f"none of {wanted} test subjects could be evaluated; the reasons are above")
