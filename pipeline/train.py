"""A whole run: prepare, train, and finish; begun anew or taken up where it stands."""

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from pipeline.config.schema import Config
from pipeline.data.gpu_slices import on_device_slices
from pipeline.data.loader import PairedSlices, SliceBank, UnpairedSlices
from pipeline.data.pairs import PairReader
from pipeline.data.split_file import split_to_json
from pipeline.dry_run import warn_before_the_work
from pipeline.engines.cuda_graph import CapturedStep
from pipeline.engines.registry import build_engine, engine_class
from pipeline.evaluation.console_summary import last_lines, what_was_done
from pipeline.evaluation.finish import finish
from pipeline.inference.model import precision_of
from pipeline.runs.checkpoint import all_finite_weights, random_state, restore_random_state
from pipeline.runs.coverage_choice import coverage_json
from pipeline.runs.folder import RunFolder, json_text, open_run_folder
from pipeline.runs.prepare import (
    Prepared,
    chain_settings,
    chain_version,
    find_cases,
    prepare,
    registrations,
    require_same_data,
    training_data,
)
from pipeline.training.failure_advice import advice_after_no_number, where_settings_change
from pipeline.training.failure_monitor import FailureMonitor, cohort
from pipeline.training.history import history_texts
from pipeline.training.loop import Callbacks, train
from pipeline.training.loss_monitor import NotFinite
from pipeline.training.resume import Opening, open_run, require_alike
from pipeline.training.run_logging import log_inputs, open_tracker
from pipeline.training.run_record import mark_unfinished
from pipeline.training.schedule import schedule_of, warn_of_lost_rate
from pipeline.training.sitting import Sitting
from pipeline.training.trainer_state import TrainerState
from pipeline.training.validation import Validation, save_sample
from pipeline.utils.console import bar, echo, warn
from pipeline.utils.distributed import ProcessLost, World, init_distributed
from pipeline.utils.errors import OutputNotFinite, Stopped, UserError
from pipeline.utils.files import atomic_text, remove_stale
from pipeline.utils.hardware import choose_device, require_able, set_up, tune
from pipeline.utils.interruption import Interruption
from transforms.augmentation import Augmentation

NOBODY = Callbacks(  # in every process but the first, which writes and judges for all
    log=lambda metrics, step: None,
    validate=lambda: {"validation/score": float("-inf")},
    sample=lambda epochs, step: None,
    save=lambda position, best: None,
    bar=lambda done, total: bar(disable=True),
)


def run(config: Config, *, quiet: bool = False) -> None:
    """Do the run that a configuration describes; continue it where its folder already holds a part of it.

    Of the processes that torchrun starts, all train, and the first does the rest: it alone writes.

    Raises:
        UserError: bad data or settings, or another process is at work on this run; nothing already done is lost.
        Stopped: a signal came and a checkpoint is written.
    """
    started = time.monotonic()
    with init_distributed() as world:
        world.local_slots(config.training.batch_size)
        folder = open_run_folder(config) if world.is_main else RunFolder(config.folder)
        with folder.held() if world.is_main else nullcontext():
            if world.is_main:
                open_run_folder(config)  # again: whoever held it until now may have trained
                remove_stale(folder.path)
            position, steps_before, how_to_open = _run(config, folder, world, quiet or not world.is_main)
        if world.is_main:
            done = what_was_done(position, steps_before, time.monotonic() - started)
            echo(last_lines(folder, how_to_open, done))


def _run(config: Config, folder: RunFolder, world: World, quiet: bool) -> tuple[TrainerState, int, str]:
    """Do the run; return where it stands, with how many steps it began, and in the first process how to open it."""
    set_up(config.threads)
    device = choose_device(config.device)
    _require_able(device, config, folder)
    tune(device, tf32=config.training.tf32)
    opening = open_run(config, folder, world)
    version = chain_version(opening.state)
    prepared = world.main_process_first(
        lambda: _prepare(config, folder, opening, quiet, save=world.is_main, version=version)
    )
    opening = opening.beside(prepared.split)
    torch.manual_seed(config.seed)
    engine = build_engine(config, device, world)
    state, position = opening.state, opening.position
    schedule = schedule_of(config.training, prepared.longest)
    if state is not None and position.epochs < schedule.epochs:
        require_same_data(state["data"], training_data(prepared), folder.path)
    opening.load_into(engine)
    opening.announce(config, folder, schedule)
    require_alike(world, prepared, engine, position)
    reader = PairReader(
        chain_settings(config.preprocess, version),
        max(network.stride for network in engine.translators().values()),
        register=config.evaluation.register_pairs,
        cache=registrations(config.preprocess),
    )
    record = open_tracker(config, folder, state, device) if world.is_main else nullcontext()
    with Interruption() as interruption, record as tracker:
        sitting = Sitting(
            config, folder, prepared, engine, position, reader, tracker, device, quiet, world, opening.history
        )
        if world.is_main:
            log_inputs(sitting)
            tracker.set_tags(opening.tags())
        if position.epochs < sitting.schedule.epochs:
            if world.is_main:
                warn_of_lost_rate(sitting.schedule)
            try:
                _train(sitting, state, interruption)
            except ProcessLost as lost:
                if interruption.signal_number is None:
                    raise
                raise Stopped(interruption.signal_number, "another process had stopped already") from lost
        world.shutdown()
        steps_before = opening.position.step
        if not world.is_main:
            return position, steps_before, ""
        with interruption.at_once():
            finish(sitting)
        return position, steps_before, tracker.how_to_open()


def _require_able(device: torch.device, config: Config, folder: RunFolder) -> None:
    """Refuse what the device cannot do, with a remedy that the run's folder takes."""
    training = config.training
    try:
        require_able(device, precision=training.precision, cuda_graph=training.cuda_graph)
    except UserError as error:  # of the two, a run that has trained takes another `cuda_graph` alone
        raise UserError(f"{error}{where_settings_change(folder) if 'precision' in str(error) else ''}") from error


def _prepare(config: Config, folder: RunFolder, opening: Opening, quiet: bool, *, save: bool, version: int) -> Prepared:
    """Prepare the data, and write down the configuration, split and range that the run has from now on.

    A split that was saved counts where something was trained on it, or the first process has just saved it.
    """
    keep = folder.has_trained() or not save
    split, coverage = (path if path.exists() and keep else None for path in (folder.split, folder.coverage))
    cases = find_cases(config, quiet=quiet)
    if save:
        warn_before_the_work(config, cases, split)
    how = {"saved_coverage": coverage, "paired": engine_class(config).paired, "quiet": quiet, "version": version}
    prepared = prepare(config, cases, split, **how)
    if not prepared.split.test:  # said now, not after hours of training
        where = f"name some in split.file, {config.split.file}" if config.split.file else "set split.test to 1 or more"
        raise UserError(f"the split has no test subject; {where}")
    if save:
        folder.save_config(config, [f"{name}: {text}" for name, text in history_texts(opening.history).items()])
        atomic_text(folder.split, json_text(split_to_json(prepared.split)))
        if config.preprocess.coverage_mm != "all":
            atomic_text(folder.coverage, json_text(coverage_json(prepared.coverage)))
    return prepared


def _train(sitting: Sitting, state: dict | None, interruption: Interruption) -> None:
    """Train what is still to be trained.

    Raises:
        NotFinite: losses or weights were no numbers; the message says what to change, and where.
    """
    config = sitting.config
    if sitting.world.is_main:
        mark_unfinished(sitting.folder.record, trains=True)
    banks = {contrast: SliceBank(sitting.prepared.stored[contrast]) for contrast in config.contrasts}
    slices = _slices(sitting, banks)
    if sitting.world.is_main:
        with interruption.at_once("before the next step; the same command goes on from there"):
            observers = _observers(sitting, _validation(sitting, banks))
    else:
        observers = NOBODY
    if state is not None:  # after all that might draw random numbers
        restore_random_state(state["random"])
    try:
        train(
            sitting.engine,
            slices,
            sitting.schedule,
            sitting.position,
            replace(observers, begin=partial(sitting.world.seed, config.seed)),
            device=sitting.device,
            interruption=interruption,
            world=sitting.world,
            step=CapturedStep(sitting.engine) if config.training.cuda_graph else None,
        )
    except (NotFinite, OutputNotFinite) as error:
        raise NotFinite(f"{error}; {advice_after_no_number(config, sitting.folder, sitting.position)}") from error


def _observers(sitting: Sitting, validation: Validation) -> Callbacks:
    """Return what happens besides the steps."""
    return Callbacks(
        log=sitting.tracker.log_metrics,
        validate=partial(_validate, sitting, validation, sitting.watch()),
        sample=partial(_sample, sitting, validation),
        save=partial(_save, sitting),
        bar=lambda done, total: bar(initial=done, total=total, desc="training", unit="step", disable=sitting.quiet),
    )


def _slices(sitting: Sitting, banks: dict[str, SliceBank]) -> UnpairedSlices | PairedSlices:
    """Return what the engine is shown: both contrasts of the same slices, or each contrast's own."""
    config = sitting.config
    augmentation = Augmentation(**config.augment.model_dump())
    placed = partial(on_device_slices, device=sitting.device) if config.training.slices_on_device else list
    if sitting.engine.paired:
        first, second = placed([SliceBank(side) for side in zip(*sitting.prepared.pairs, strict=True)])
        return PairedSlices(first, second, augmentation, config.seed)
    return UnpairedSlices(*placed([*banks.values()]), augmentation, config.seed)


def _validate(sitting: Sitting, validation: Validation, watch: FailureMonitor) -> dict[str, float]:
    """Score the networks as they are now, and warn of what the detectors find."""
    metrics = validation.scores(sitting.translators())
    watch(metrics, sitting.position.step // sitting.schedule.steps_per_epoch)
    return metrics


def _validation(sitting: Sitting, banks: dict[str, SliceBank]) -> Validation:
    held_out = sitting.prepared.split.validation
    if not held_out:
        warn("warning: split.validation is 0: pictures and scores without pairs come from the training subjects")
    return Validation(
        held_out or [entries[0].case for entries in sitting.prepared.stored.values()],
        sitting.config.contrasts,
        scored_in_pairs=bool(held_out),
        reader=sitting.reader,
        slices=sitting.config.training.validation_slices,
        histograms=sitting.histograms,
        coverage=sitting.prepared.coverage,
        cohorts={contrast: cohort(bank, sitting.histograms[contrast]) for contrast, bank in banks.items()},
        device=sitting.device,
        precision=precision_of(sitting.config, sitting.device),
        store=sitting.config.preprocess.store,
        processes=sitting.config.preprocess.processes,
        quiet=sitting.quiet,
    )


def _sample(sitting: Sitting, validation: Validation, epoch: int, step: int) -> None:
    """Draw the fixed validation slices as the networks translate them now."""
    config = sitting.config
    oriented = config.data.source != "images"
    panels = validation.panels(sitting.translators(), config.training.sample_slices, oriented=oriented)
    for target, panel in panels.items():
        direction = sitting.folder.direction(config.contrasts, target)
        save_sample(sitting.folder.samples, direction, epoch, panel)
        sitting.tracker.log_image(f"samples/{direction}", panel, step)


def _save(sitting: Sitting, position: dict, best: bool) -> None:
    """Write a checkpoint: all that a bitwise resume needs, and all that a translation needs.

    Raises:
        NotFinite: a weight is not finite: an earlier checkpoint must not be replaced by such a one.
    """
    if not all_finite_weights(sitting.engine.networks().values()):
        raise NotFinite(f"training stopped at step {position['step']}: weights are no longer finite")
    state = {
        "config": sitting.config.model_dump(mode="json"),
        "chain_version": sitting.reader.settings.get("version", 1),
        "facts": sitting.prepared.facts,
        "data": training_data(sitting.prepared),
        "split": split_to_json(sitting.prepared.split),
        "translators": {contrast: network.state_dict() for contrast, network in sitting.translators().items()},
        "engine": sitting.engine.state_dict(),
        "position": position,
        "random": random_state(),
        "mlflow_run_id": sitting.tracker.run_id,
        "history": sitting.history,
    }
    sitting.folder.checkpoints.save(state, best=best)
