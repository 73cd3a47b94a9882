"""The end of a run: evaluate the chosen checkpoint, translate the test subjects, draw, report, and log it all."""

import logging
from collections.abc import Mapping

import numpy as np

from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PreparedScan
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.logged_models import log_models, validation_score
from pipeline.evaluation.parallel_scoring import PRELOAD, Translation
from pipeline.evaluation.report import write_summary
from pipeline.evaluation.scores import Scores, metric_name
from pipeline.evaluation.translation_writer import TranslationWriter, draw_curves, draw_gifs, translate_scan
from pipeline.evaluation.uncertainty_scores import UncertaintyScorer, calibrate
from pipeline.evaluation.viewer_volumes import ViewerVolumes, collect_viewer_volumes, subjects_to_view
from pipeline.inference.model import TranslationModel, load_model, translator_metadata
from pipeline.inference.uncertainty_calibration import other_checkpoints
from pipeline.metrics.names import MODEL
from pipeline.reporting.viewer import make_viewer
from pipeline.training.run_context import RunContext
from pipeline.training.run_record import mark_unfinished, write_run_record
from pipeline.utils.errors import Stopped, UserError, first_cause
from pipeline.utils.workers import WorkerPool

logger = logging.getLogger(__name__)


def finish(context: RunContext) -> None:
    """Evaluate, draw, report and log a run after its training; a rerun repeats it from the same checkpoint."""
    # Load the checkpoint.
    config, folder, tracker = context.config, context.folder, context.tracker
    mark_unfinished(folder.record)
    checkpoint_path = folder.evaluated_checkpoint(config.evaluation.checkpoint)
    model = load_model(checkpoint_path, context.device.type)

    # Score and translate the test subjects.
    test, batch_size = context.prepared.split.test, config.evaluation.batch_size
    writer = TranslationWriter(model, folder, batch_size) if config.evaluation.translate else None
    with (
        collect_viewer_volumes(folder.path, model) as viewer_volumes,
        WorkerPool(config.preprocess.processes, preload=PRELOAD) as workers,
    ):
        scorer, reason = _calibrated_scorer(context, model, workers)
        scores = _evaluate(context, model, {"translations": writer, "viewer": viewer_volumes}, scorer, workers)
        volumes = writer.add_rest(test, context.reader, context.quiet, workers) if writer else []
        scores.add_uncertainty(scorer.scores, reason)
        viewer = make_viewer(subjects_to_view(test, scores, viewer_volumes)) if viewer_volumes else None
    logger.info(f"\n{scores.text()}\n")

    # Write scores, pictures and report.
    files = [*scores.save(folder.path), *scorer.save(folder, reason)]
    gifs = draw_gifs(folder, config.contrasts)
    curves = draw_curves(folder, context.schedule.steps_per_epoch)
    watch = context.failure_monitor()
    warnings = list(watch.warnings.values())
    write_summary(
        config,
        folder,
        context.prepared,
        scores,
        volumes,
        gifs,
        curves,
        context.position,
        context.engine,
        viewer=viewer,
        uncertainty=folder.uncertainty if scorer.curves else None,
        training_warnings=warnings,
        history=context.history,
        shift=watch.shift,
    )
    if warnings:
        texts = "; ".join(f"{warning.title}: {warning.observation}" for warning in warnings)
        logger.info(f"warned during training, what to do stands in the report: {texts}")

    # Log metrics, files and models to MLflow.
    tracker.log_metrics(_final_metrics(scores), context.position.step)
    for path in [*files, *gifs.values(), curves, folder.report, *(volume.mosaic for volume in volumes)]:
        tracker.log_artifact(path, "mosaics" if path.parent == folder.mosaics else None)
    _log_models(context, model, scorer, checkpoint_path.stem)

    # Write the run record: the run is finished.
    standing_warnings = [f"{warning.title}: {warning.observation}" for warning in warnings if warning.cleared is None]
    write_run_record(
        folder.record,
        config,
        context.engine,
        context.position,
        context.device,
        warnings=standing_warnings,
        history=context.history,
    )
    tracker.log_artifact(folder.record)


def _log_models(context: RunContext, model: TranslationModel, scorer: UncertaintyScorer, checkpoint: str) -> None:
    """Log both directions' networks as MLflow models; `checkpoint` is the checkpoint's name."""
    config, position = context.config, context.position
    metadata = {
        to: translator_metadata(config, context.prepared.statistics, to, model.stride, model.settings)
        | scorer.metadata(to)
        for to in model.translators
    }
    log_models(
        context.tracker,
        model,
        metadata,
        context.folder.models,
        checkpoint=f"{checkpoint}, training stopped at step {position.step}",
        register_as=config.tracking.register_as,
        score=validation_score(checkpoint, position.best_score),
    )


def _calibrated_scorer(
    context: RunContext, model: TranslationModel, workers: WorkerPool
) -> tuple[UncertaintyScorer, str]:
    """Calibrate the uncertainty on the validation subjects; return its scorer, and the reason where it has none."""
    config, prepared = context.config, context.prepared
    if not config.evaluation.uncertainty:
        calibrations, reason = {}, "evaluation.uncertainty is false"
    elif config.data.source == "images":
        calibrations, reason = {}, "the run's data are pictures, and maps are for volumes"
    else:
        others = other_checkpoints(context.folder, model)
        options = {"reader": context.reader, "batch_size": config.evaluation.batch_size, "quiet": context.quiet}
        calibrations, reason = calibrate(prepared.split.validation, model, others, workers=workers, **options)
        if calibrations:
            return UncertaintyScorer(model, others, calibrations, config.evaluation.batch_size), ""
    return UncertaintyScorer(model, {}, calibrations, config.evaluation.batch_size), reason


def _evaluate(
    context: RunContext,
    model: TranslationModel,
    callbacks: Mapping[str, TranslationWriter | ViewerVolumes | None],
    scorer: UncertaintyScorer,
    workers: WorkerPool,
) -> Scores:
    """Score the test subjects; each is translated once, for scores, uncertainty and callbacks."""
    config, prepared = context.config, context.prepared

    # The model, and the uncertainty's scores beside it.
    def translate(scan: PreparedScan, to: str) -> np.ndarray:
        return translate_scan(scan, to, model, config.evaluation.batch_size, scan.name)

    def score_uncertainty(translation: Translation) -> None:
        try:
            scorer.add(translation)
        except (UserError, Stopped):
            raise
        except Exception as error:  # a failed uncertainty must not cost the scores
            reason = first_cause(error)
            logger.warning(f"{translation.case.path}: left out of the uncertainty ({reason}); its scores stand")

    # Test pairs, with baselines from the training subjects.
    return evaluate(
        prepared.split.test,
        pairs(_training_cases(context), config.contrasts),
        config.contrasts,
        translate,
        reader=context.reader,
        histograms=context.histograms,
        protocols=config.evaluation.protocols,
        registrations=context.folder.registration,
        on_translation=score_uncertainty,
        callbacks={name: callback for name, callback in callbacks.items() if callback is not None},
        workers=workers,
        quiet=context.quiet,
    )


def _training_cases(context: RunContext) -> list[Case]:
    """Return all cases of the training subjects, including those that unpaired training does not show the model."""
    prepared = context.prepared
    subjects = {case.subject for cases in prepared.split.train.values() for case in cases}
    return [case for case in prepared.cases if case.subject in subjects and case.contrast in context.config.contrasts]


def _final_metrics(scores: Scores) -> dict[str, float]:
    """Return the test means under their MLflow names; of the baselines, only those of volumes inside the head."""
    return {
        metric_name(row): row.mean
        for row in scores.summary()
        if np.isfinite(row.mean) and (row.system == MODEL or (row.unit == "volume" and row.region != "image"))
    }
