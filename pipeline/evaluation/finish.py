"""The evaluation of a run: its model translates the test subjects, for scores, uncertainty, volumes and viewer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.data.case import pairs
from pipeline.data.lookup_fit import fit_context_tables
from pipeline.data.pairs import PairReader
from pipeline.data.slice_stacks import stored_stacks
from pipeline.evaluation import translation_writer as writer
from pipeline.evaluation.evaluate import PRELOAD, evaluate
from pipeline.evaluation.front_page import SUBJECT_TABLE, front_page, subject_table
from pipeline.evaluation.logged_models import log_models
from pipeline.evaluation.scores import Scores, Translation, metric_name
from pipeline.evaluation.uncertainty_scores import UncertaintyScorer, calibrate
from pipeline.inference.model import TranslationModel
from pipeline.inference.uncertainty_calibration import other_checkpoints
from pipeline.metrics.names import MODEL, is_named
from pipeline.reporting.viewer import Viewer, make_viewer
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData
from pipeline.tracking.tracker import Tracker
from pipeline.training.schedule import TrainerState
from pipeline.utils.workers import WorkerPool

MOSAICS = "mosaics"  # their folder among a run's artifacts in MLflow


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation."""

    scores: Scores
    volumes: list[writer.TranslatedVolume]
    uncertainty: UncertaintyScorer
    no_uncertainty: str  # the reason why there is no calibration of the uncertainty; "" where there is one
    viewer: Viewer | None  # None without its package


def evaluate_run(
    model: TranslationModel,
    folder: RunFolder,
    prepared: PreparedData,
    reader: PairReader,
    *,
    protocols: Sequence[str],
    batch_size: int,
    translate: bool,
    no_uncertainty: str,
    processes: int | None,
    on_bad_volume: str,
    quiet: bool,
) -> Evaluation:
    """Translate and score the test subjects; each is translated once, for scores, uncertainty, volumes and viewer.

    Args:
        protocols: Published protocols to score in besides our own.
        translate: Whether to write the test subjects' translations.
        no_uncertainty: The reason not to calibrate the uncertainty; "" calibrates it.
        processes: Number of worker processes; None for one per core.
        on_bad_volume: "stop" refuses test volumes that cannot be read.

    Raises:
        UserError: no test subject could be evaluated, one could not and `on_bad_volume` is "stop", or the disk is full.
    """
    scorer, reason = UncertaintyScorer(model, {}, {}, batch_size), no_uncertainty
    products: dict[str, Callable[[Translation], object]] = {}
    if translate:
        products["translations"] = partial(writer.write_translation, folder, writer.without_networks(model))
    with writer.viewer_folder(folder.path) as viewer_path, WorkerPool(processes, preload=PRELOAD) as workers:
        if viewer_path:
            products["viewer"] = partial(writer.write_viewer_volumes, viewer_path, model.statistics)

        # Calibrate the uncertainty on the validation subjects.
        if not reason:
            others = other_checkpoints(folder, model)
            calibrations, reason = calibrate(
                prepared.split.validation, model, others,
                reader=reader, batch_size=batch_size, workers=workers, quiet=quiet,
            )  # fmt: skip
            if calibrations:
                scorer = UncertaintyScorer(model, others, calibrations, batch_size)

        # Fit the baseline that needs no pairs.
        try:
            context_tables, fit = fit_context_tables(stored_stacks(prepared.stored, model.settings)), ""
        except ValueError as error:
            context_tables, fit = {}, f"there is no context lookup: {error}"

        # Score the test subjects beside baselines, which are fitted to the training subjects' pairs.
        scores, outputs = evaluate(
            prepared.split.test,
            pairs(prepared.training_cases, model.contrasts),
            model.contrasts,
            lambda scan, to: writer.translate_scan(scan, to, model, batch_size),
            translate_start=lambda scan, to: writer.translate_by_start(scan, to, model, batch_size),
            reader=reader,
            histograms=prepared.histograms,
            context_tables=context_tables,
            protocols=protocols,
            regions=prepared.regions,
            registrations=folder.registration,
            on_translation=scorer.add,
            products=products,
            all_images=translate,
            workers=workers,
            on_bad_volume=on_bad_volume,
            quiet=quiet,
        )
        scores.subjects += scorer.scores
        scores.notes += [fit] if fit else []
        scores.notes += [f"the uncertainty was not calibrated: {reason}"] if reason else []
        subjects = writer.subjects_to_view(prepared.split.test, scores, model.contrasts, outputs["viewer"])
        viewer = make_viewer(subjects)
    volumes = [outputs["translations"][case] for case in prepared.split.test if case in outputs["translations"]]
    return Evaluation(scores, volumes, scorer, reason, viewer)


def final_metrics(scores: Scores) -> dict[str, float]:
    """Return the test means under their MLflow names; of the baselines, only those of volumes inside the head."""
    return {
        metric_name(row): row.mean
        for row in scores.summary()
        if np.isfinite(row.mean)
        and (row.system == MODEL or (row.unit == "volume" and row.region != "image" and not is_named(row.region)))
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
    provenance: Mapping[str, str],
    warnings: Sequence[str],
) -> None:
    """Log metrics, files besides the mosaics, the front page, and both directions' networks to MLflow.

    `checkpoint` is the evaluated one's name, "best" or "latest"; models are registered as `register_as`, if any;
    `provenance` (versions, steps, time) and `warnings` are for the front page.
    """
    tracker.log_metrics(final_metrics(evaluation.scores), position.step)
    tracker.log_table(SUBJECT_TABLE, *subject_table(evaluation.scores))
    first_volumes = {volume.target: volume for volume in reversed(evaluation.volumes)}  # the first by direction
    pictures = {volume.mosaic.stem: f"{MOSAICS}/{volume.mosaic.name}" for volume in first_volumes.values()}
    tracker.set_description(front_page(model, evaluation.scores, checkpoint, provenance, warnings, pictures))
    for path in files:
        tracker.log_artifact(path)
    for volume in evaluation.volumes:
        tracker.log_artifact(volume.mosaic, MOSAICS)
    log_models(
        tracker,
        model,
        {to: {**model.metadata(to), **evaluation.uncertainty.metadata(to)} for to in model.translators},
        folder.models,
        checkpoint=checkpoint,
        step=position.step,
        best_scores=position.best_scores,
        register_as=register_as,
    )
