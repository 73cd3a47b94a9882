"""The uncertainty's calibration on the validation subjects, and what the test subjects say of it.

Of each scan some evenly spread slices are looked at, so that it costs seconds: as many passes through the networks as
`--uncertainty` makes, on `SLICES` slices. The test subjects play no part in the calibration.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression, nnls
from torch import nn

from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PairReader, PreparedScan, View
from pipeline.evaluation.parallel_scoring import READ_AHEAD, Translation, read_pair
from pipeline.evaluation.scores import UNCERTAINTY, SubjectScore
from pipeline.inference.model import TranslationModel
from pipeline.inference.translator import translate_slices
from pipeline.inference.uncertainty import Calibration, Features, UncertaintySources, features_of
from pipeline.inference.uncertainty_calibration import (
    RUN,
    SINGLE_PROCESS,
    Calibrations,
    uncertainty_sources,
    write_calibrations,
)
from pipeline.metrics.calibration import calibration_curve, calibration_error, rank_correlation
from pipeline.metrics.names import MODEL
from pipeline.reporting.calibration_plot import Example, Reliability, save_reliability
from pipeline.runs.folder import RunFolder
from pipeline.utils.console import progress, warn
from pipeline.utils.workers import WorkerPool

SLICES = 16  # of a scan
MOST_PAIRS = 16  # validation subjects that the calibration uses
MOST_VOXELS = 20_000  # of a scan, evenly spread: neighbours say the same
KNOTS = 24  # equally filled bins of the combined feature


def fit_calibration(features: Features, errors: np.ndarray, subjects: int = 0) -> Calibration:
    """Fit the map from features to the absolute error to expect.

    The weights are a non-negative least-squares fit of the errors to the features and a constant; the map of the
    weighted sum is the isotonic regression of the mean errors in equally filled bins. Bins at one value of the sum,
    which many voxels then share, are one knot.

    Args:
        features: Of the voxels, (n,).
        errors: |G(x) - y| of the same voxels, (n,), from 0.
        subjects: How many the voxels are of, for the record.

    Raises:
        ValueError: there is no voxel.
    """
    if errors.size == 0:
        raise ValueError("no voxel to calibrate on")
    columns = [column for column in (features.spread, features.cycle) if column is not None]
    scales = [float(column.std()) or 1.0 for column in columns]
    scaled = [column / scale for column, scale in zip(columns, scales, strict=True)]
    (_, *weights), _ = nnls(np.column_stack([np.ones(errors.size), *scaled]).astype(float), errors.astype(float))
    if not any(weights):  # nothing tells anything: the map will be flat whatever the weights
        weights = [1.0] * len(columns)
    spread_weight, cycle_weight = ([weight / scale for weight, scale in zip(weights, scales, strict=True)] + [0.0])[:2]
    calibration = Calibration(cycle_weight, spread_weight, (), subjects, int(errors.size))
    curve = calibration_curve(calibration.combined(features), errors, KNOTS)
    places, knot = np.unique(curve[:, 0].round(6), return_inverse=True)
    bins = np.bincount(knot)
    fitted = isotonic_regression(np.bincount(knot, curve[:, 1]) / bins, weights=bins).x
    knots = np.column_stack([places, fitted.round(6)]).tolist()
    return replace(calibration, knots=tuple((place, error) for place, error in knots))


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

    Args:
        validation: Their cases.
        model: What translates.
        others: The run's other checkpoints.
        reader: Reads and registers pairs.
        batch_size: Slices that go through the network at once.
        workers: Read and register the next pairs meanwhile; None leaves that to this process.
        quiet: Whether to leave out the progress bar.

    Returns:
        The calibrations, and "", or none and the reason.
    """
    found = pairs(validation, model.contrasts)
    if not validation:
        return {}, "split.validation is 0, so there was nobody to calibrate on"
    if not found:
        return {}, "no validation subject has both contrasts"
    seen: dict[tuple[str, str], list[tuple[Features, np.ndarray]]] = {}
    chosen = found[:: max(1, -(-len(found) // MOST_PAIRS))]
    views = (workers or WorkerPool(1)).imap(read_pair, [(reader, pair) for pair in chosen], READ_AHEAD)
    bar = progress(chosen, title="uncertainty", unit="subject", quiet=quiet)
    for pair, read in zip(bar, views, strict=True):
        if isinstance(read, str):
            warn(f"warning: {pair[0].subject}: {read}; left out of the uncertainty's calibration")
            continue
        there, back, _ = read
        for view, case, to in ((there, pair[0], model.contrasts[1]), (back, pair[1], model.contrasts[0])):
            look = _Look(view, model, batch_size, str(case.path))
            if not look.inside.any():
                continue
            translated = look.translated(to)
            every = max(1, -(-int(look.inside.sum()) // MOST_VOXELS))
            errors = look.errors(translated)[look.inside][::every]
            for kind in (RUN, SINGLE_PROCESS):
                sources = uncertainty_sources(model, to, others, kind)
                features = look.features(translated, sources)
                within = (None if one is None else one[look.inside][::every] for one in features)
                seen.setdefault((to, kind), []).append((Features(*within), errors))
    if not seen:
        return {}, "no validation pair could be used"
    calibrations: Calibrations = {}
    for (to, kind), parts in seen.items():
        columns = zip(*(features for features, _ in parts), strict=True)
        features = Features(*(None if one[0] is None else np.concatenate(one) for one in columns))
        errors = np.concatenate([error for _, error in parts])
        calibrations.setdefault(to, {})[kind] = fit_calibration(features, errors, len(parts))
    return calibrations, ""


class _Look:
    """Some slices of a scan whose real target is known.

    Attributes:
        scan: The source with those slices alone.
        inside: (n, h, w) bool: the head of both the source and the real target.
    """

    def __init__(self, view: View, model: TranslationModel, batch_size: int, name: str):
        both = view.source.foreground & view.foreground
        shown = np.flatnonzero(both.any(axis=(1, 2)))
        self.positions = shown[np.unique(np.linspace(0, len(shown) - 1, min(SLICES, len(shown))).round().astype(int))]
        source = view.source
        self.scan: PreparedScan = replace(
            source, slices=source.slices[self.positions], foreground=source.foreground[self.positions]
        )
        self.inside, self.real = both[self.positions], view.real[self.positions]
        self.model, self.batch_size, self.name = model, batch_size, name

    def translated(self, to: str) -> np.ndarray:
        """Return the slices translated to a contrast, still padded."""
        return self._send(self.model.translators[to], self.scan.slices)

    def features(self, translated: np.ndarray, sources: UncertaintySources) -> Features:
        """Return the features of translated slices (n, H, W), without padding."""
        found = features_of(self.scan.slices, translated, sources, self._send)
        return Features(*(None if one is None else self.scan.unpadded(one) for one in found))

    def errors(self, translated: np.ndarray) -> np.ndarray:
        """Return |G(x) - y|, (n, h, w)."""
        return np.abs(self.scan.unpadded(translated) - self.real)

    def _send(self, network: nn.Module, slices: np.ndarray) -> np.ndarray:
        how = {"device": self.model.device, "batch_size": self.batch_size, "precision": self.model.precision}
        return translate_slices(slices, network, np.ones(len(slices), bool), name=self.name, **how)


@dataclass
class UncertaintyScorer:
    """Holds the expected error against the observed one of every test translation that the evaluation shows.

    Attributes:
        model, others, calibrations, batch_size: As in `calibrate`.
        scores: By translation, in the order they were shown.
        curves: Target contrast -> calibration curves, one a translation.
        examples: Target contrast -> a slice of the first translation shown.
    """

    model: TranslationModel
    others: Mapping[str, TranslationModel]
    calibrations: Calibrations
    batch_size: int
    scores: list[SubjectScore] = field(default_factory=list)
    curves: dict[str, list[np.ndarray]] = field(default_factory=dict)
    examples: dict[str, Example] = field(default_factory=dict)

    def add(self, translation: Translation) -> None:
        """Judge one; one without a real target is passed by."""
        to, case, view = translation.to, translation.case, translation.view
        if view is None or to not in self.calibrations:
            return
        look = _Look(view, self.model, self.batch_size, str(case.path))
        if not look.inside.any():
            return
        translated = translation.slices[look.positions]
        features = look.features(translated, uncertainty_sources(self.model, to, self.others))
        everywhere = self.calibrations[to][RUN].expected(features)
        expected, observed = everywhere[look.inside], look.errors(translated)[look.inside]
        curve = calibration_curve(expected, observed)
        self.curves.setdefault(to, []).append(curve)
        measured = {
            "spearman": rank_correlation(expected, observed),
            "expected_error": expected.mean(),
            "observed_error": observed.mean(),
            "calibration_error": calibration_error(curve),
        }
        name = "_".join(part for part in (case.subject, case.session) if part)
        values = {f"volume/both heads/{metric}": np.array([value], float) for metric, value in measured.items()}
        self.scores.append(SubjectScore(name, case.contrast, to, MODEL, UNCERTAINTY, values))
        if to not in self.examples:
            self.examples[to] = _example(look, translated, everywhere, f"{name}, {case.contrast} → {to}")

    def reliability(self) -> Iterator[Reliability]:
        """Yield what the report draws, by direction."""
        for to, curves in self.curves.items():
            source = next(contrast for contrast in self.model.contrasts if contrast != to)
            same = [curve for curve in curves if len(curve) == len(curves[0])]
            yield Reliability(f"{source} → {to}", np.stack(same), self.examples[to])

    def save(self, folder: RunFolder, reason: str) -> list[Path]:
        """Write the calibrations, with the test subjects' curves or the reason why there are none, and the picture."""
        tested = {to: [curve.round(5).tolist() for curve in curves] for to, curves in self.curves.items()}
        write_calibrations(folder, self.model, self.others, self.calibrations, reason=reason, test=tested)
        if not self.curves:
            folder.uncertainty.unlink(missing_ok=True)  # an earlier evaluation's
            return [folder.calibrations]
        save_reliability(list(self.reliability()), folder.uncertainty)
        return [folder.calibrations, folder.uncertainty]

    def metadata(self, to: str) -> dict[str, object]:
        """Return what goes with one direction's network by itself, in JSON's types; empty without a calibration."""
        return {"uncertainty": asdict(self.calibrations[to][SINGLE_PROCESS])} if to in self.calibrations else {}


def _example(look: _Look, translated: np.ndarray, expected: np.ndarray, title: str) -> Example:
    """Return the slice with the most head of it."""
    index = int(look.inside.sum(axis=(1, 2)).argmax())
    shown = (look.scan.stack, look.scan.unpadded(translated), look.real, look.errors(translated), expected)
    inside = look.inside[index]
    source, made, real, observed, doubt = (stack[index] for stack in shown)
    spacing = look.scan.spacing_mm[1:]
    return Example(title, source, made, real, np.where(inside, observed, 0), np.where(inside, doubt, 0), spacing)
