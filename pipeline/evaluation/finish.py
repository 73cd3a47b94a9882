"""The end of a run: evaluate the chosen checkpoint, translate the test subjects, draw, report, and log it all."""

from collections.abc import Mapping

import numpy as np

from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PreparedScan
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.logged_models import log_models, score_of
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
from pipeline.training.run_record import mark_unfinished, write_run_record
from pipeline.training.sitting import Sitting
from pipeline.utils.console import echo, warn
from pipeline.utils.errors import Stopped, UserError, first_cause
from pipeline.utils.workers import WorkerPool


def finish(sitting: Sitting) -> None:
    """Do all that follows training; a rerun does it again, from the same checkpoint."""
    config, folder, tracker = sitting.config, sitting.folder, sitting.tracker
    mark_unfinished(folder.record)
    chosen = folder.evaluated_checkpoint(config.evaluation.checkpoint)
    model = load_model(chosen, sitting.device.type)
    test, batch_size = sitting.prepared.split.test, config.evaluation.batch_size
    gallery = TranslationWriter(model, folder, batch_size) if config.evaluation.translate else None
    with (
        collect_viewer_volumes(folder.path, model) as candidates,
        WorkerPool(config.preprocess.processes, preload=PRELOAD) as workers,
    ):
        judge, uncalibrated = _judge(sitting, model, workers)
        scores = _evaluate(sitting, model, {"translations": gallery, "viewer": candidates}, judge, workers)
        volumes = gallery.add_rest(test, sitting.reader, sitting.quiet, workers) if gallery else []
        scores.add_uncertainty(judge.scores, uncalibrated)
        viewer = make_viewer(subjects_to_view(test, scores, candidates)) if candidates else None
    echo(f"\n{scores.text()}\n")
    files = [*scores.save(folder.path), *judge.save(folder, uncalibrated)]
    gifs = draw_gifs(folder, config.contrasts)
    curves = draw_curves(folder, sitting.schedule.steps_per_epoch)
    watch = sitting.watch()
    warnings = list(watch.warnings.values())
    write_summary(
        config,
        folder,
        sitting.prepared,
        scores,
        volumes,
        gifs,
        curves,
        sitting.position,
        sitting.engine,
        viewer=viewer,
        uncertainty=folder.uncertainty if judge.curves else None,
        training_warnings=warnings,
        history=sitting.history,
        shift=watch.shift,
    )
    if warnings:
        seen = "; ".join(f"{warning.title}: {warning.what_was_seen}" for warning in warnings)
        echo(f"warned during training, what to do stands in the report: {seen}")
    tracker.log_metrics(_final_metrics(scores), sitting.position.step)
    for path in [*files, *gifs.values(), curves, folder.report, *(volume.mosaic for volume in volumes)]:
        tracker.log_artifact(path, "mosaics" if path.parent == folder.mosaics else None)
    log_models(
        tracker,
        model,
        {
            to: translator_metadata(config, sitting.prepared.statistics, to, model.stride, model.settings)
            | judge.metadata(to)
            for to in model.translators
        },
        folder.models,
        checkpoint=f"{chosen.stem}, training stopped at step {sitting.position.step}",
        register_as=config.tracking.register_as,
        score=score_of(chosen.stem, sitting.position.best_score),
    )
    standing = [f"{warning.title}: {warning.what_was_seen}" for warning in warnings if warning.cleared is None]
    write_run_record(
        folder.record,
        config,
        sitting.engine,
        sitting.position,
        sitting.device,
        warnings=standing,
        history=sitting.history,
    )
    tracker.log_artifact(folder.record)


def _judge(sitting: Sitting, model: TranslationModel, workers: WorkerPool) -> tuple[UncertaintyScorer, str]:
    """Calibrate the uncertainty on the validation subjects; return what judges it, and why there is none."""
    config, prepared = sitting.config, sitting.prepared
    if not config.evaluation.uncertainty:
        calibrations, reason = {}, "evaluation.uncertainty is false"
    elif config.data.source == "images":
        calibrations, reason = {}, "the run's data are pictures, and maps are for volumes"
    else:
        others = other_checkpoints(sitting.folder, model)
        how = {"reader": sitting.reader, "batch_size": config.evaluation.batch_size, "quiet": sitting.quiet}
        calibrations, reason = calibrate(prepared.split.validation, model, others, workers=workers, **how)
        if calibrations:
            return UncertaintyScorer(model, others, calibrations, config.evaluation.batch_size), ""
    return UncertaintyScorer(model, {}, calibrations, config.evaluation.batch_size), reason


def _evaluate(
    sitting: Sitting,
    model: TranslationModel,
    keepers: Mapping[str, TranslationWriter | ViewerVolumes | None],
    judge: UncertaintyScorer,
    workers: WorkerPool,
) -> Scores:
    """Score the test subjects; each translation is made once, and shown to whoever draws or keeps it."""
    config, prepared = sitting.config, sitting.prepared

    def translate(scan: PreparedScan, to: str) -> np.ndarray:
        return translate_scan(scan, to, model, config.evaluation.batch_size, scan.name)

    def show(translation: Translation) -> None:
        try:
            judge.add(translation)
        except (UserError, Stopped):
            raise
        except Exception as error:  # whatever it runs into, the scores are what the evaluation is for
            reason = first_cause(error)
            warn(f"warning: {translation.case.path}: left out of the uncertainty ({reason}); its scores stand")

    return evaluate(
        prepared.split.test,
        pairs(_everyone_in_training(sitting), config.contrasts),
        config.contrasts,
        translate,
        reader=sitting.reader,
        histograms=sitting.histograms,
        protocols=config.evaluation.protocols,
        registrations=sitting.folder.registration,
        seen=show,
        keepers={name: keeper for name, keeper in keepers.items() if keeper is not None},
        workers=workers,
        quiet=sitting.quiet,
    )


def _everyone_in_training(sitting: Sitting) -> list[Case]:
    """Return every case of the training subjects, those too that unpaired training keeps from the model."""
    prepared = sitting.prepared
    subjects = {case.subject for cases in prepared.split.train.values() for case in cases}
    return [case for case in prepared.cases if case.subject in subjects and case.contrast in sitting.config.contrasts]


def _final_metrics(scores: Scores) -> dict[str, float]:
    """Return the test means under the names that MLflow compares: of a baseline, only volumes inside the head."""
    return {
        metric_name(row): row.mean
        for row in scores.summary()
        if np.isfinite(row.mean) and (row.system == MODEL or (row.unit == "volume" and row.region != "image"))
    }
