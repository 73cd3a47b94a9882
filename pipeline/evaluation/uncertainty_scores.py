"""The uncertainty's calibration on the validation subjects, and its scores on the test subjects.

Both use `SLICES` evenly spread slices of each scan, with as many passes through the networks as `--uncertainty` makes,
which takes seconds. The test subjects play no part in the calibration.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PairReader, PreparedScan, View, read_or_reason
from pipeline.evaluation import uncertainty_fit
from pipeline.evaluation.evaluate import READ_AHEAD
from pipeline.evaluation.scores import UNCERTAINTY, SubjectScore, Translation
from pipeline.inference.model import TranslationModel
from pipeline.inference.slice_translator import translate_slices, with_neighbours
from pipeline.inference.uncertainty import Features, UncertaintySources, uncertainty_features
from pipeline.inference.uncertainty_calibration import (
    RUN,
    SINGLE_NETWORK,
    Calibrations,
    uncertainty_sources,
    write_calibrations,
)
from pipeline.metrics.names import MODEL
from pipeline.reporting.curves import Example, Reliability, save_reliability
from pipeline.runs.folder import RunFolder
from pipeline.utils.console import progress
from pipeline.utils.errors import Stopped, UserError, first_cause
from pipeline.utils.workers import WorkerPool
from transforms.slices import evenly_spread

logger = logging.getLogger(__name__)

SLICES = 16  # of a scan
MAX_PAIRS = 16  # validation subjects that the calibration uses
MAX_VOXELS = 20_000  # of a scan, evenly spread, because neighbouring voxels are alike


def calibrate(
    validation: Sequence[Case],
    model: TranslationModel,
    others: Mapping[str, TranslationModel],
    *,
    reader: PairReader,
    batch_size: int,
    workers: WorkerPool | None = None,
    quiet: bool = False,
) -> tuple[Calibrations, str]:
    """Calibrate the uncertainty of both directions on the validation subjects that have both contrasts.

    `others` are the run's other checkpoints; `workers` read and register the next pairs meanwhile, if there are any.

    Returns:
        The calibrations and "", or no calibrations and the reason.
    """
    # Choose the pairs.
    validation_pairs = pairs(validation, model.contrasts)
    if not validation:
        return {}, "split.validation is 0, so there was nobody to calibrate on"
    if not validation_pairs:
        return {}, "no validation subject has both contrasts"

    # Sample features and errors of both directions.
    samples: dict[tuple[str, str], list[tuple[Features, np.ndarray]]] = {}
    fitting_pairs = validation_pairs[:: max(1, -(-len(validation_pairs) // MAX_PAIRS))]
    views = (workers or WorkerPool(1)).imap(read_or_reason, [(reader.read, pair) for pair in fitting_pairs], READ_AHEAD)
    bar = progress(fitting_pairs, title="uncertainty", unit="subject", quiet=quiet)
    for pair, result in zip(bar, views, strict=True):
        if isinstance(result, str):
            logger.warning(f"{pair[0].subject}: {result}; left out of the uncertainty's calibration")
            continue
        for view, case, to in zip(result[:2], pair, model.contrasts[::-1], strict=True):
            subset = _SliceSubset(view, model, to, batch_size, str(case.path))
            if not subset.inside.any():
                continue
            translated = subset.translated()
            step = max(1, -(-int(subset.inside.sum()) // MAX_VOXELS))
            sample = partial(_sample, step, subset.inside)
            errors = sample(subset.errors(translated))
            for kind in (RUN, SINGLE_NETWORK):
                sources = uncertainty_sources(model, to, others, kind)
                features = subset.features(translated, sources).mapped(sample)
                samples.setdefault((to, kind), []).append((features, errors))
    if not samples:
        return {}, "no validation pair could be used"

    # Fit a calibration for each direction and kind of sources.
    calibrations: Calibrations = {}
    for (to, kind), scans in samples.items():
        features_of_scans, errors_of_scans = zip(*scans, strict=True)
        calibrations.setdefault(to, {})[kind] = uncertainty_fit.fit_calibration(
            uncertainty_fit.join_features(features_of_scans), np.concatenate(errors_of_scans), len(scans)
        )
    return calibrations, ""


def _sample(step: int, inside: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return every so many of the values (n, h, w) inside a mask."""
    return values[inside][::step]


class _SliceSubset:
    """Some slices of a scan whose real target is known; `inside` (n, h, w) is the head of source and real target.

    `scan` has those slices, at `positions` of the whole scan; `stacks` (n, C, H, W) also have the neighbours that the
    network which makes the contrast `to` sees.
    """

    def __init__(self, view: View, model: TranslationModel, to: str, batch_size: int, name: str):
        common_head = view.source.foreground & view.foreground
        positions = np.flatnonzero(common_head.any(axis=(1, 2)))
        self.positions = positions[evenly_spread(len(positions), SLICES)]
        source, self.model, self.network = view.source, model, model.translators[to]
        self.scan: PreparedScan = replace(
            source, slices=source.slices[self.positions], foreground=source.foreground[self.positions]
        )
        self.stacks = with_neighbours(source.slices, self.positions, self.network, source.spacing_mm[0])
        self.inside, self.real = common_head[self.positions], view.real[self.positions]
        self.batch_size, self.name = batch_size, name

    def translated(self) -> np.ndarray:
        """Return the translated slices, (n, H, W), still padded."""
        return self._send(self.network, self.stacks)

    def features(self, translated: np.ndarray, sources: UncertaintySources) -> Features:
        """Return the features (n, h, w) of what `translated` returned, without padding."""
        features = uncertainty_features(self.stacks, translated, sources, self._send)
        return features.mapped(self.scan.unpadded)

    def errors(self, translated: np.ndarray) -> np.ndarray:
        """Return |G(x) - y|, (n, h, w)."""
        return np.abs(self.scan.unpadded(translated) - self.real)

    def _send(self, network: nn.Module, slices: np.ndarray) -> np.ndarray:
        model, batch_size = self.model, self.batch_size
        return translate_slices(
            slices, network, device=model.device, batch_size=batch_size, precision=model.precision, name=self.name
        )


@dataclass
class UncertaintyScorer:
    """Compares the expected with the observed error of every test translation of an evaluation; see `calibrate`."""

    model: TranslationModel
    others: Mapping[str, TranslationModel]
    calibrations: Calibrations
    batch_size: int
    scores: list[SubjectScore] = field(default_factory=list)  # in the order of the evaluation
    curves: dict[str, list[np.ndarray]] = field(default_factory=dict)  # by target contrast, of each translation
    examples: dict[str, Example] = field(default_factory=dict)  # by target contrast, one slice

    def add(self, translation: Translation) -> None:
        """Score a translation that has a real target; one that fails costs a warning, but no other score."""
        try:
            self._add(translation)
        except (UserError, Stopped):
            raise
        except Exception as error:
            reason = first_cause(error)
            logger.warning(f"{translation.case.path}: left out of the uncertainty ({reason}); its scores stand")

    def _add(self, translation: Translation) -> None:
        to, case, view = translation.to, translation.case, translation.view
        if view is None or to not in self.calibrations:
            return
        subset = _SliceSubset(view, self.model, to, self.batch_size, str(case.path))
        if not subset.inside.any():
            return
        translated = translation.slices[subset.positions]
        features = subset.features(translated, uncertainty_sources(self.model, to, self.others))
        expected_map = self.calibrations[to][RUN].expected(features)
        expected, observed = expected_map[subset.inside], subset.errors(translated)[subset.inside]
        curve = uncertainty_fit.calibration_curve(expected, observed)
        self.curves.setdefault(to, []).append(curve)
        measured = {
            "spearman": uncertainty_fit.rank_correlation(expected, observed),
            "expected_error": expected.mean(),
            "observed_error": observed.mean(),
            "calibration_error": uncertainty_fit.calibration_error(curve),
        }
        values = {f"volume/both heads/{metric}": np.array([value], float) for metric, value in measured.items()}
        self.scores.append(SubjectScore(case.scan_name, case.contrast, to, MODEL, UNCERTAINTY, values))
        if to not in self.examples:
            self.examples[to] = _example(subset, translated, expected_map, f"{case.scan_name}, {case.contrast} → {to}")

    def save(self, folder: RunFolder, reason: str) -> list[Path]:
        """Write the calibrations, with the test subjects' curves or the reason why there are none, and the picture."""
        curves_of_subjects = {to: [curve.round(5).tolist() for curve in curves] for to, curves in self.curves.items()}
        write_calibrations(folder, self.model, self.others, self.calibrations, reason=reason, test=curves_of_subjects)
        if not self.curves:
            folder.uncertainty.unlink(missing_ok=True)  # an earlier evaluation's
            return [folder.calibrations]
        directions = []
        for to, curves in self.curves.items():
            full_curves = [curve for curve in curves if len(curve) == len(curves[0])]
            directions.append(Reliability(f"{self.model.source(to)} → {to}", np.stack(full_curves), self.examples[to]))
        save_reliability(directions, folder.uncertainty)
        return [folder.calibrations, folder.uncertainty]

    def metadata(self, to: str) -> dict[str, object]:
        """Return the metadata of one direction's network by itself, in JSON's types; empty without a calibration."""
        return {"uncertainty": self.calibrations[to][SINGLE_NETWORK].to_json()} if to in self.calibrations else {}


def _example(subset: _SliceSubset, translated: np.ndarray, expected: np.ndarray, title: str) -> Example:
    """Return the slice that shows most of the head, with both errors."""
    index = int(subset.inside.sum(axis=(1, 2)).argmax())
    source_stack, translated_stack = (subset.scan.unpadded(stack) for stack in (subset.scan.slices, translated))
    stacks = (source_stack, translated_stack, subset.real, subset.errors(translated), expected)
    inside = subset.inside[index]
    source, translation, real, observed, expected_error = (stack[index] for stack in stacks)
    spacing = subset.scan.spacing_mm[1:]
    return Example(
        title, source, translation, real, np.where(inside, observed, 0), np.where(inside, expected_error, 0), spacing
    )
