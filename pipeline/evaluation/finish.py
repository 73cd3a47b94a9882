"""The evaluation of a run: its model translates the test subjects, for scores, uncertainty, volumes and viewer."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PairReader, PreparedScan
from pipeline.evaluation.evaluate import PRELOAD, Products, Translation, evaluate
from pipeline.evaluation.logged_models import log_models
from pipeline.evaluation.scores import Scores, metric_name
from pipeline.evaluation.translation_writer import (
    TranslatedVolume,
    subjects_to_view,
    translate_scan,
    viewer_folder,
    without_networks,
    write_translation,
    write_viewer_volumes,
)
from pipeline.evaluation.uncertainty_scores import UncertaintyScorer, calibrate
from pipeline.inference.model import TranslationModel
from pipeline.inference.uncertainty_calibration import other_checkpoints
from pipeline.metrics.names import MODEL
from pipeline.reporting.viewer import Viewer, make_viewer
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData
from pipeline.tracking.tracker import Tracker
from pipeline.training.schedule import TrainerState
from pipeline.utils.errors import Stopped, UserError, first_cause
from pipeline.utils.workers import WorkerPool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated, and how.

    Attributes:
        protocols: Published protocols to score in besides our own.
        batch_size: Slices in a batch.
        translate: Whether to write the test subjects' translations.
        no_uncertainty: Reason not to calibrate the uncertainty; "" calibrates it.
        processes: Worker processes; None for one per core.
        quiet: Whether to hide progress bars.
    """

    protocols: Sequence[str] = ()
    batch_size: int = 8
    translate: bool = True
    no_uncertainty: str = ""
    processes: int | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        scores: Scores of the test subjects.
        volumes: The written translations.
        uncertainty: Calibrations and scores of the uncertainty.
        no_uncertainty: Reason why there is no calibration; "" where there is one.
        viewer: The interactive viewer; None without its package.
    """

    scores: Scores
    volumes: list[TranslatedVolume]
    uncertainty: UncertaintyScorer
    no_uncertainty: str
    viewer: Viewer | None


def evaluate_run(
    model: TranslationModel, folder: RunFolder, prepared: PreparedData, reader: PairReader, options: EvaluationOptions
) -> Evaluation:
    """Translate and score the test subjects; each is translated once, for scores, uncertainty, volumes and viewer.

    Raises:
        UserError: no test subject could be evaluated, or the disk is full.
    """
    test = prepared.split.test
    products: dict[str, Callable[[Translation], object]] = {}
    if options.translate:
        products["translations"] = partial(write_translation, folder, without_networks(model))
    with viewer_folder(folder.path) as viewed, WorkerPool(options.processes, preload=PRELOAD) as workers:
        if viewed:
            products["viewer"] = partial(write_viewer_volumes, viewed, model.statistics)
        # Calibrate the uncertainty on the validation subjects, then score the test subjects.
        scorer, reason = _calibrated_scorer(model, folder, prepared.split.validation, reader, options, workers)
        scores, made = _scores(model, folder, prepared, reader, options, products, scorer, workers)
        scores.add_uncertainty(scorer.scores, reason)
        viewer = make_viewer(subjects_to_view(test, scores, model.contrasts, made["viewer"])) if viewed else None
    written = made.get("translations", {})
    volumes = [written[case] for case in test if case in written]
    return Evaluation(scores, volumes, scorer, reason, viewer)


def _calibrated_scorer(
    model: TranslationModel,
    folder: RunFolder,
    validation: Sequence[Case],
    reader: PairReader,
    options: EvaluationOptions,
    workers: WorkerPool,
) -> tuple[UncertaintyScorer, str]:
    """Calibrate the uncertainty; return its scorer, and the reason where it has no calibration."""
    reason = options.no_uncertainty
    if not reason:
        others = other_checkpoints(folder, model)
        calibrations, reason = calibrate(
            validation,
            model,
            others,
            reader=reader,
            batch_size=options.batch_size,
            quiet=options.quiet,
            workers=workers,
        )
        if calibrations:
            return UncertaintyScorer(model, others, calibrations, options.batch_size), ""
    return UncertaintyScorer(model, {}, {}, options.batch_size), reason


def _scores(
    model: TranslationModel,
    folder: RunFolder,
    prepared: PreparedData,
    reader: PairReader,
    options: EvaluationOptions,
    products: Mapping[str, Callable[[Translation], object]],
    scorer: UncertaintyScorer,
    workers: WorkerPool,
) -> tuple[Scores, Products]:
    """Score the test subjects beside baselines, which are fitted to the training subjects' pairs."""

    def translate(scan: PreparedScan, to: str) -> np.ndarray:
        return translate_scan(scan, to, model, options.batch_size, str(scan.path))

    def score_uncertainty(translation: Translation) -> None:
        try:
            scorer.add(translation)
        except (UserError, Stopped):
            raise
        except Exception as error:  # a failed uncertainty must not cost the scores
            reason = first_cause(error)
            logger.warning(f"{translation.case.path}: left out of the uncertainty ({reason}); its scores stand")

    return evaluate(
        prepared.split.test,
        pairs(prepared.training_cases, model.contrasts),
        model.contrasts,
        translate,
        reader=reader,
        histograms=prepared.histograms,
        protocols=options.protocols,
        registrations=folder.registration,
        on_translation=score_uncertainty,
        products=products,
        all_images=options.translate,
        workers=workers,
        quiet=options.quiet,
    )


def final_metrics(scores: Scores) -> dict[str, float]:
    """Return the test means under their MLflow names; of the baselines, only those of volumes inside the head."""
    return {
        metric_name(row): row.mean
        for row in scores.summary()
        if np.isfinite(row.mean) and (row.system == MODEL or (row.unit == "volume" and row.region != "image"))
    }


def log_evaluation(
    tracker: Tracker,
    evaluation: Evaluation,
    model: TranslationModel,
    files: Iterable[Path],
    folder: RunFolder,
    position: TrainerState,
    *,
    checkpoint: str,
    register_as: str | None,
) -> None:
    """Log metrics, files and both directions' networks to MLflow.

    Args:
        tracker: Tracker of the run.
        evaluation: The evaluation.
        model: The evaluated model.
        files: Files besides the mosaics.
        folder: Folder of the run.
        position: State of the training at its end.
        checkpoint: Name of the evaluated checkpoint: "best" or "latest".
        register_as: Name under which models are registered; None for none.
    """
    tracker.log_metrics(final_metrics(evaluation.scores), position.step)
    for path in files:
        tracker.log_artifact(path)
    for volume in evaluation.volumes:
        tracker.log_artifact(volume.mosaic, "mosaics")
    log_models(
        tracker,
        model,
        {to: {**model.metadata(to).to_json(), **evaluation.uncertainty.metadata(to)} for to in model.translators},
        folder.models,
        checkpoint=checkpoint,
        step=position.step,
        best_score=position.best_score,
        register_as=register_as,
    )
