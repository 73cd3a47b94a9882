"""A whole run: prepare, train and finish; a new one, or the rest of one that was interrupted."""

import logging
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from pipeline.config.schema import Config
from pipeline.data.gpu_slices import on_device_slices
from pipeline.data.loader import PairedSlices, SliceBank, UnpairedSlices
from pipeline.data.split_file import split_to_json
from pipeline.data_builders import find_cases, prepare_data
from pipeline.dry_run import warn_before_the_work
from pipeline.engines.builders import build_engine, learns_from_pairs
from pipeline.engines.cuda_graph import CapturedStep
from pipeline.evaluation.console_summary import closing_lines, work_summary
from pipeline.evaluation.finish import finish
from pipeline.inference.model import precision_of
from pipeline.runs.checkpoint import all_finite_weights, random_state, restore_random_state
from pipeline.runs.coverage_choice import coverage_json
from pipeline.runs.folder import RunFolder, json_text, open_run_folder
from pipeline.runs.prepare import (
    PreparedData,
    chain_version,
    require_same_data,
    training_data,
)
from pipeline.training.failure_advice import advice_after_not_finite, new_output_advice
from pipeline.training.failure_monitor import FailureMonitor, cohort
from pipeline.training.history import history_texts
from pipeline.training.loop import Callbacks, NotFinite, train
from pipeline.training.resume import StartingPoint, find_starting_point, require_alike
from pipeline.training.run_context import RunContext, pair_reader
from pipeline.training.run_logging import log_inputs, open_tracker
from pipeline.training.run_record import mark_unfinished
from pipeline.training.schedule import TrainerState, schedule_of, warn_of_lost_rate
from pipeline.training.validation import Validation, save_sample
from pipeline.utils.console import bar
from pipeline.utils.distributed import ProcessLost, World, init_distributed
from pipeline.utils.errors import OutputNotFinite, Stopped, UserError
from pipeline.utils.files import atomic_text, remove_stale
from pipeline.utils.hardware import choose_device, require_able, set_up, tune
from pipeline.utils.interruption import Interruption
from transforms.augmentation import Augmentation

logger = logging.getLogger(__name__)

SILENT_CALLBACKS = Callbacks(  # for every process but the first, which alone writes and validates
    log=lambda metrics, step: None,
    validate=lambda: {"validation/score": float("-inf")},
    sample=lambda epochs, step: None,
    save=lambda position, best: None,
    bar=lambda done, total: bar(disable=True),
)


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
            logger.info(closing_lines(folder, how_to_open, done))


def _run(config: Config, folder: RunFolder, world: World, quiet: bool) -> tuple[TrainerState, int, str]:
    """Do the run; return its state, its step at the beginning, and (in the first process) how to open it."""
    # Device, and the checkpoint or weights to begin from.
    set_up(config.threads)
    device = choose_device(config.device)
    _require_able(device, config, folder)
    tune(device, tf32=config.training.tf32)
    start = find_starting_point(config, folder, world)

    # Data, engine and what connects them.
    version = chain_version(start.state)
    prepared = world.main_process_first(
        lambda: _prepare(config, folder, start, quiet, save=world.is_main, version=version)
    )
    start = start.with_overlap(prepared.split)
    torch.manual_seed(config.seed)
    engine = build_engine(config, device, world)
    state, position = start.state, start.position
    schedule = schedule_of(config.training, prepared.longest)
    if state is not None and position.epochs < schedule.epochs:
        require_same_data(state["data"], training_data(prepared), folder.path)
    start.load_into(engine)
    start.announce(config, folder, schedule)
    require_alike(world, prepared, engine, position)
    reader = pair_reader(config, version, engine)

    # Train, then finish: evaluate, translate, report.
    record = open_tracker(config, folder, state, device) if world.is_main else nullcontext()
    with Interruption() as interruption, record as tracker:
        context = RunContext(
            config, folder, prepared, engine, position, reader, tracker, device, quiet, world, start.history
        )
        if world.is_main:
            log_inputs(context)
            tracker.set_tags(start.tags())
        if position.epochs < context.schedule.epochs:
            if world.is_main:
                warn_of_lost_rate(context.schedule)
            try:
                _train(context, state, interruption)
            except ProcessLost as lost:
                if interruption.signal_number is None:
                    raise
                raise Stopped(interruption.signal_number, "another process had stopped already") from lost
        world.shutdown()
        initial_step = start.position.step
        if not world.is_main:
            return position, initial_step, ""
        with interruption.stop_immediately():
            finish(context)
        return position, initial_step, tracker.open_instructions()


def _require_able(device: torch.device, config: Config, folder: RunFolder) -> None:
    """Refuse settings that the device does not support, with a remedy that the run's folder accepts."""
    training = config.training
    try:
        require_able(device, precision=training.precision, cuda_graph=training.cuda_graph)
    except UserError as error:  # a run that has trained may change `cuda_graph`, but not `precision`
        raise UserError(f"{error}{new_output_advice(folder) if 'precision' in str(error) else ''}") from error


def _prepare(
    config: Config, folder: RunFolder, start: StartingPoint, quiet: bool, *, save: bool, version: int
) -> PreparedData:
    """Prepare the data and save the configuration, split and range that the run keeps from now on.

    A saved split is used if the run has trained on it, or if the first process has just saved it (not `save`).
    """
    keep = folder.has_trained() or not save
    split, coverage = (path if path.exists() and keep else None for path in (folder.split, folder.coverage))
    cases = find_cases(config, quiet=quiet)
    if save:
        warn_before_the_work(config, cases, split)
    options = {"saved_coverage": coverage, "paired": learns_from_pairs(config), "quiet": quiet, "version": version}
    prepared = prepare_data(config, cases, split, **options)
    if not prepared.split.test:  # refused now, not after hours of training
        remedy = f"name some in split.file, {config.split.file}" if config.split.file else "set split.test to 1 or more"
        raise UserError(f"the split has no test subject; {remedy}")
    if save:
        folder.save_config(config, [f"{name}: {text}" for name, text in history_texts(start.history).items()])
        atomic_text(folder.split, json_text(split_to_json(prepared.split)))
        if config.preprocess.coverage_mm != "all":
            atomic_text(folder.coverage, json_text(coverage_json(prepared.coverage)))
    return prepared


def _train(context: RunContext, state: dict | None, interruption: Interruption) -> None:
    """Train the remaining epochs.

    Raises:
        NotFinite: losses or weights were not finite; the message says what to change, and where.
    """
    # Slices, and callbacks (in the first process only).
    config = context.config
    if context.world.is_main:
        mark_unfinished(context.folder.record, trains=True)
    banks = {contrast: SliceBank(context.prepared.stored[contrast]) for contrast in config.contrasts}
    slices = _slices(context, banks)
    if context.world.is_main:
        with interruption.stop_immediately("before the next step; the same command goes on from there"):
            callbacks = _callbacks(context, _validation(context, banks))
    else:
        callbacks = SILENT_CALLBACKS

    # Train, from the random state of the checkpoint: last, for the above may draw random numbers.
    if state is not None:
        restore_random_state(state["random"])
    try:
        train(
            context.engine,
            slices,
            context.schedule,
            context.position,
            replace(callbacks, begin=partial(context.world.seed, config.seed)),
            device=context.device,
            interruption=interruption,
            world=context.world,
            step=CapturedStep(context.engine) if config.training.cuda_graph else None,
        )
    except (NotFinite, OutputNotFinite) as error:
        raise NotFinite(f"{error}; {advice_after_not_finite(config, context.folder, context.position)}") from error


def _callbacks(context: RunContext, validation: Validation) -> Callbacks:
    """Return the callbacks of the training loop: logging, validation, pictures, checkpoints and progress bar."""
    return Callbacks(
        log=context.tracker.log_metrics,
        validate=partial(_validate, context, validation, context.failure_monitor()),
        sample=partial(_sample, context, validation),
        save=partial(_save, context),
        bar=lambda done, total: bar(initial=done, total=total, desc="training", unit="step", disable=context.quiet),
    )


def _slices(context: RunContext, banks: dict[str, SliceBank]) -> UnpairedSlices | PairedSlices:
    """Return the training slices: both contrasts of the same slices for paired methods, else each contrast's own."""
    config = context.config
    augmentation = Augmentation(**config.augment.model_dump())
    place_banks = partial(on_device_slices, device=context.device) if config.training.slices_on_device else list
    if context.engine.paired:
        first, second = place_banks(
            [
                SliceBank([pair.first for pair in context.prepared.pairs]),
                SliceBank([pair.second for pair in context.prepared.pairs]),
            ]
        )
        return PairedSlices(first, second, augmentation, config.seed)
    return UnpairedSlices(*place_banks([*banks.values()]), augmentation, config.seed)


def _validate(context: RunContext, validation: Validation, monitor: FailureMonitor) -> dict[str, float]:
    """Score the present networks, and warn of what the failure checks find."""
    metrics = validation.scores(context.translators())
    monitor(metrics, context.position.step // context.schedule.steps_per_epoch)
    return metrics


def _validation(context: RunContext, banks: dict[str, SliceBank]) -> Validation:
    held_out = context.prepared.split.validation
    if not held_out:
        logger.warning("split.validation is 0: pictures and scores without pairs come from the training subjects")
    return Validation(
        held_out or [entries[0].case for entries in context.prepared.stored.values()],
        context.config.contrasts,
        scored_in_pairs=bool(held_out),
        reader=context.reader,
        slices=context.config.training.validation_slices,
        histograms=context.histograms,
        coverage=context.prepared.coverage,
        cohorts={contrast: cohort(bank, context.histograms[contrast]) for contrast, bank in banks.items()},
        device=context.device,
        precision=precision_of(context.config, context.device),
        store=context.config.preprocess.store,
        processes=context.config.preprocess.processes,
        quiet=context.quiet,
    )


def _sample(context: RunContext, validation: Validation, epoch: int, step: int) -> None:
    """Save pictures of the fixed validation slices as the present networks translate them."""
    config = context.config
    oriented = config.data.source != "images"
    panels = validation.panels(context.translators(), config.training.sample_slices, oriented=oriented)
    for target, panel in panels.items():
        direction = context.folder.direction(config.contrasts, target)
        save_sample(context.folder.samples, direction, epoch, panel)
        context.tracker.log_image(f"samples/{direction}", panel, step)


def _save(context: RunContext, position: dict, best: bool) -> None:
    """Write a checkpoint, with everything that a bitwise resume or a translation needs.

    Raises:
        NotFinite: a weight is not finite; the earlier checkpoint stays.
    """
    if not all_finite_weights(context.engine.networks().values()):
        raise NotFinite(f"training stopped at step {position['step']}: weights are no longer finite")
    state = {
        "config": context.config.model_dump(mode="json"),
        "chain_version": context.reader.settings.version,
        "facts": {contrast: item.to_json() for contrast, item in context.prepared.statistics.items()},
        "data": training_data(context.prepared),
        "split": split_to_json(context.prepared.split),
        "translators": {contrast: network.state_dict() for contrast, network in context.translators().items()},
        "engine": context.engine.state_dict(),
        "position": position,
        "random": random_state(),
        "mlflow_run_id": context.tracker.run_id,
        "history": context.history,
    }
    context.folder.checkpoints.save(state, best=best)
