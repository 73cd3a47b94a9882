"""A whole run, top to bottom: prepare, build, resume, train, evaluate and report; a new one, or the rest of one."""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch

from networks.lookup_start import start_texts
from pipeline.config.load import load_config, resolved_yaml
from pipeline.config.schema import Config
from pipeline.data.loader import PairedSlices, UnpairedSlices
from pipeline.data.pairs import PairReader
from pipeline.data.split_file import split_to_json
from pipeline.data_builders import pair_reader, schedule_of
from pipeline.dry_run import meta_engine
from pipeline.engines.builders import build_engine
from pipeline.engines.cuda_graph import CapturedStep
from pipeline.evaluation.finish import log_evaluation
from pipeline.evaluation.report import (
    RunDescription,
    closing_lines,
    evaluated_steps,
    provenance,
    report_warnings,
    work_summary,
    write_run_report,
)
from pipeline.evaluation.translation_writer import draw_gifs
from pipeline.inference.model import load_model
from pipeline.reporting.curves import save_curves
from pipeline.run_builders import (
    build_failure_monitor,
    build_training_slices,
    build_validation,
    evaluate_model,
    open_tracker,
    prepare_run,
    require_able_device,
    set_starts,
)
from pipeline.run_config import fingerprint, open_run_folder
from pipeline.runs.checkpoint import restore_random_state
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData, chain_version, require_same_data, training_data
from pipeline.tracking.tracker import Tracker
from pipeline.training.callbacks import SILENT_CALLBACKS, TrainedRun, make_callbacks
from pipeline.training.failure_monitor import FailureMonitor
from pipeline.training.initial_weights import read_initial_weights
from pipeline.training.loop import Callbacks, NotFinite, train
from pipeline.training.resume import (
    advice_after_not_finite,
    announce,
    find_starting_point,
    history_texts,
    require_alike,
)
from pipeline.training.run_record import log_inputs, mark_unfinished, write_run_record
from pipeline.training.schedule import TrainerState, warn_of_lost_rate
from pipeline.utils.callable_module import make_callable
from pipeline.utils.distributed import ProcessLost, World, init_distributed
from pipeline.utils.errors import OutputNotFinite, Stopped
from pipeline.utils.files import remove_stale
from pipeline.utils.hardware import choose_device, set_up, tune
from pipeline.utils.interruption import Interruption

logger = logging.getLogger(__name__)


def run(config: Config, *, quiet: bool = False) -> None:
    """Do the run that a configuration describes, or continue it if its folder holds a part of it.

    All processes that torchrun starts train. Only the first writes, validates and reports.

    Raises:
        UserError: bad data or settings, or another process works on this run; nothing already done is lost.
        Stopped: a signal came; a checkpoint is written.
    """
    started = time.monotonic()
    with init_distributed() as world:
        world.local_slots(config.training.batch_size)
        folder = open_run_folder(config) if world.is_main else RunFolder(config.folder)
        with folder.lock() if world.is_main else nullcontext():
            if world.is_main:
                open_run_folder(config)  # again, for the process that held the folder until now may have trained
                remove_stale(folder.path)
            position, initial_step, how_to_open = _run(config, folder, world, quiet or not world.is_main)
        if world.is_main:
            done = work_summary(position, initial_step, time.monotonic() - started)
            logger.info(closing_lines(folder, how_to_open, done, translated=config.evaluation.translate))


def _run(config: Config, folder: RunFolder, world: World, quiet: bool) -> tuple[TrainerState, int, str]:
    """Do the run; return its state, its step at the beginning, and (in the first process) how to open it."""
    # Choose the device, and what to start from: a checkpoint, the weights of another run, or fresh networks.
    training, settings = config.training, config.model_dump(mode="json")
    set_up(config.threads)
    device = choose_device(config.device)
    require_able_device(config, folder, device)
    tune(device, tf32=training.tf32)
    read_weights = partial(read_initial_weights, training.start_from, folder, settings, partial(meta_engine, config))
    start = find_starting_point(folder, world, (training.epochs, training.decay_epochs), read_weights)

    # Prepare the data: cases, split and slices.
    version = chain_version(start.state)
    prepared = world.main_process_first(
        lambda: prepare_run(config, folder, start.history, version, quiet, save=world.is_main)
    )
    start = start.with_split(prepared.split)

    # Build the engine and the schedule.
    torch.manual_seed(config.seed)
    engine = build_engine(config, device, world)
    begins_trained = training.start_from is not None or config.starts_from_lookup
    schedule = replace(schedule_of(training, prepared.longest), validate_start=begins_trained)
    reader = pair_reader(config, version, max(cast(int, network.stride) for network in engine.translators().values()))
    validation_of = cache(partial(build_validation, config, prepared, reader, device, quiet))

    # Resume: load the weights and states, where they belong to these data.
    position, initial_step = start.position, start.position.step
    is_complete = position.epochs >= schedule.epochs
    if start.state is not None and not is_complete:
        require_same_data(start.state["data"], training_data(prepared), folder.path)
    start.load_into(engine)
    if start.state is None and start.weights is None:
        set_starts(config, version, prepared, engine, world, validation_of)
    announce(start, folder, schedule, f"{config.name}: {config.method.type}", training.learning_rate)
    require_alike(world, json.dumps([training_data(prepared), initial_step]), engine)
    checkpoint_entries = {
        "config": settings,
        "chain_version": version,
        "facts": {contrast: statistics.to_json() for contrast, statistics in prepared.statistics.items()},
        "data": training_data(prepared),
        "split": split_to_json(prepared.split),
        "history": start.history,
    }
    trained = TrainedRun(folder, engine, schedule, position, start.history)
    random = None if start.state is None else start.state["random"]

    record = open_tracker(config, folder, start.state, device) if world.is_main else nullcontext()
    with Interruption() as interruption, record as tracker:
        # Train; the first process alone writes, validates and reports.
        slices = None if is_complete else build_training_slices(config, prepared, device, engine.paired)
        if tracker is None:
            if slices is not None:
                _train(config, trained, slices, random, SILENT_CALLBACKS, interruption, world)
            world.shutdown()
            return position, initial_step, ""
        log_inputs(tracker, folder, prepared, str(config.data.folder))
        tracker.set_tags({name.replace(" ", "_"): text for name, text in history_texts(start.history).items()})
        monitor = build_failure_monitor(config, folder, schedule, tracker)
        if slices is not None:
            warn_of_lost_rate(schedule)
            mark_unfinished(folder.record, trains=True)
            with interruption.stop_immediately("before the next step; the same command goes on from there"):
                validation = validation_of()
            callbacks = make_callbacks(
                trained, validation, monitor, tracker, checkpoint_entries,
                sample_slices=training.sample_slices, oriented=config.data.source != "images", quiet=quiet,
            )  # fmt: skip
            _train(config, trained, slices, random, callbacks, interruption, world)
        world.shutdown()

        # Evaluate and report.
        with interruption.stop_immediately():
            finish(config, trained, prepared, reader, tracker, monitor, quiet)
        return position, initial_step, tracker.open_instructions()


def _train(
    config: Config,
    trained: TrainedRun,
    slices: UnpairedSlices | PairedSlices,
    random: dict[str, Any] | None,
    callbacks: Callbacks,
    interruption: Interruption,
    world: World,
) -> None:
    """Train the remaining epochs, from the `random` state of a checkpoint.

    Raises:
        NotFinite: losses or weights were not finite; the message says what to change, and where.
        Stopped: a signal came, to this process or another one.
    """
    engine, position = trained.engine, trained.position
    if random is not None:  # last, for everything before may draw random numbers
        restore_random_state(random)
    callbacks = replace(callbacks, begin=partial(world.seed, config.seed))
    step = CapturedStep(engine) if config.training.cuda_graph else None
    try:
        train(
            engine, slices, trained.schedule, position, callbacks,
            device=engine.device, interruption=interruption, world=world, step=step,
        )  # fmt: skip
    except (NotFinite, OutputNotFinite) as error:
        half_precision = config.training.precision != "float32"
        advice = advice_after_not_finite(trained.folder, position, half_precision=half_precision)
        raise NotFinite(f"{error}; {advice}") from error
    except ProcessLost as lost:
        if interruption.signal_number is None:
            raise
        raise Stopped(interruption.signal_number, "another process had stopped already") from lost


def finish(
    config: Config,
    trained: TrainedRun,
    prepared: PreparedData,
    reader: PairReader,
    tracker: Tracker,
    monitor: FailureMonitor,
    quiet: bool,
) -> None:
    """Evaluate, draw, report and log a run after its training; a rerun repeats it from the same checkpoint."""
    # Evaluate the chosen checkpoint.
    folder, engine, position, history = trained.folder, trained.engine, trained.position, trained.history
    mark_unfinished(folder.record)
    checkpoint_path = folder.evaluated_checkpoint(config.evaluation.checkpoint)
    model = load_model(checkpoint_path, engine.device.type)
    evaluation = evaluate_model(config, model, folder, prepared, reader, quiet)
    scores, uncertainty = evaluation.scores, evaluation.uncertainty
    held_out = bool(prepared.split.validation)
    evaluated, notes = evaluated_steps(checkpoint_path.stem, position, config.contrasts, held_out=held_out)
    scores.notes += notes
    logger.info(f"\n{scores.text()}\n")

    # Write scores, pictures and report.
    files = [*scores.save(folder.path), *uncertainty.save(folder, evaluation.no_uncertainty)]
    gifs = draw_gifs(folder, config.contrasts)
    save_curves(folder.metrics, folder.curves, steps_per_epoch=trained.schedule.steps_per_epoch)
    warnings = list(monitor.warnings.values())
    trained_on = {} if prepared.coverage.mm is None else {"trained on": f"{prepared.coverage}"}
    starts = {f"generator to {to} starts from": text for to, text in start_texts(model.translators).items()}
    origin = provenance(config.seed, position, engine.networks()) | starts | evaluated | trained_on
    origin |= history_texts(history)
    write_run_report(
        folder,
        RunDescription(config.name, config.contrasts, config.data.source, resolved_yaml(config), origin),
        prepared, scores, evaluation.volumes, gifs,
        viewer=evaluation.viewer,
        uncertainty=folder.uncertainty if uncertainty.curves else None,
        training_warnings=warnings,
        shift=monitor.shift,
    )  # fmt: skip
    if warnings:
        logger.info(f"warned during training, what to do stands in the report: {'; '.join(map(str, warnings))}")

    # Log to MLflow, then write the record: the run is finished.
    log_evaluation(
        tracker, evaluation, model, [*files, *gifs.values(), folder.curves, folder.report], folder, position,
        checkpoint=checkpoint_path.stem, register_as=config.tracking.register_as, provenance=origin,
        warnings=report_warnings(config.data.source, prepared, scores, warnings),
    )  # fmt: skip
    write_run_record(
        folder.record, engine, position,
        method=config.method.type,
        batch_size=config.training.batch_size,
        precision=config.training.precision,
        configuration=fingerprint(config),
        warnings=[str(warning) for warning in warnings if warning.cleared_epoch is None],
        history=history,
    )  # fmt: skip
    tracker.log_artifact(folder.record)


def train_run(config: str | Path | Config, overrides: str | Sequence[str] = (), *, quiet: bool = True) -> Path:
    """Do the run of a configuration, as `python -m pipeline.run` does; `pipeline.train` is this function.

    Evaluation starts worker processes, which import a script anew: call this under `if __name__ == "__main__":`.

    Args:
        config: A YAML file, the name of a shipped configuration such as "phantom", or a checked `Config`.
        overrides: "key=value" texts for a file or name, such as "training.epochs=20".
        quiet: Whether to show no progress bars.

    Returns:
        The run's folder, which `load_model` and `translate` take.

    Raises:
        UserError: bad data or settings; nothing already done is lost.
        Stopped: a signal came; a checkpoint is written, and the same call goes on from there.
    """
    texts = [overrides] if isinstance(overrides, str) else overrides
    settings = config if isinstance(config, Config) else load_config(Path(config), texts)
    run(settings, quiet=quiet)
    return settings.folder


make_callable(__name__, f"{__name__}:train_run")
