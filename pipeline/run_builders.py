"""From a configuration to what a run trains and evaluates with: tracker, slices, validation, checks and options."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from networks.lookup_start import BoxTranslation, LookupStart, start_of
from pipeline.config.methods import UnpairedMethod
from pipeline.config.schema import Config
from pipeline.data.loader import PAIRS_STREAM, PairedSlices, SliceBank, UnpairedSlices, on_device_slices
from pipeline.data.lookup_fit import LookupFit, fit_context_tables
from pipeline.data.pairs import PairReader
from pipeline.data.slice_cache import CacheOptions
from pipeline.data.slice_stacks import SliceStack, stored_stacks
from pipeline.data.split_file import split_to_json
from pipeline.data.stored_slices import StoredSlices
from pipeline.data_builders import (
    augmentation_of,
    find_regions,
    find_splittable_cases,
    prepare_data,
    preprocess_settings,
    slice_neighbours,
    warn_of_other_split,
)
from pipeline.dry_run import warn_before_the_work
from pipeline.engines.base import Engine
from pipeline.engines.builders import learns_from_pairs
from pipeline.engines.losses import CHANCE
from pipeline.evaluation.finish import Evaluation, evaluate_run
from pipeline.inference.model import TranslationModel, load_model, precision_on
from pipeline.inference.model_address import BOX_FILE
from pipeline.inference.slice_translator import translate_slices
from pipeline.run_config import save_config
from pipeline.runs.contrasts import coverage_json
from pipeline.runs.folder import RunFolder, json_text
from pipeline.runs.prepare import PreparedData
from pipeline.tracking.mlflow_run import parent_tag
from pipeline.tracking.tracker import Tracker
from pipeline.training.discriminator_record import DiscriminatorRecord
from pipeline.training.failure_monitor import FailureMonitor, cohort
from pipeline.training.resume import History, history_texts, new_output_advice
from pipeline.training.schedule import Schedule
from pipeline.training.validation import Validation
from pipeline.utils.distributed import World
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text
from pipeline.utils.hardware import require_able
from transforms.context_lookup import BLUR_MM
from transforms.slice_chain import PreprocessSettings

logger = logging.getLogger(__name__)


def open_tracker(config: Config, folder: RunFolder, state: Mapping[str, Any] | None, device: torch.device) -> Tracker:
    """Return the run's tracker, which continues at the step of the checkpoint `state`."""
    return Tracker(
        folder.path,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name or config.name,
        params=config.model_dump(mode="json"),
        step=None if state is None else state["position"]["step"],
        run_id=None if state is None else state["mlflow_run_id"],
        tags={"data": config.data.source, "method": config.method.type, "device": str(device), **parent_tag()},
        mlflow=config.tracking.mlflow,
    )


def set_starts(
    config: Config,
    version: int,
    prepared: PreparedData,
    engine: Engine,
    world: World,
    validation: Callable[[], Validation],
) -> None:
    """Give generators what they start from: lookups and the box. The first process fits, and the others take over.

    Args:
        validation: Function that returns the validation, by which the box's share is chosen.

    Raises:
        UserError: no lookup can be fitted to the training slices.
    """
    if not config.starts_from_lookup:
        return
    translators = engine.translators_of(dict(engine.generators.items()))
    sides = zip(config.contrasts, "ab", strict=True)
    starts = {to: cast(LookupStart, start_of(translators[side])) for to, side in sides}
    boxes = {to: start.box for to, start in starts.items() if start.box is not None}

    # Take the box's weights, and fit what the training slices tell.
    if boxes:
        trained = load_model(BOX_FILE, "cpu").translators
        for to, box in boxes.items():
            box.network.load_state_dict(trained[to].state_dict())
    if world.is_main:
        _fit_starts(prepared, preprocess_settings(config, version), starts)
        if boxes and prepared.split.validation and (chosen := validation().choose_box_shares(starts)):
            text = ", ".join(f"{share:g} ({direction})" for direction, share in chosen.items())
            logger.info(f"share of the model in the box in what training corrects: {text}, by validation pairs")

    # Share it: everything but the weights. The moving average begins with the same.
    for start in starts.values():
        buffers = [*start.lookup.buffers()]
        if start.box is not None:
            buffers += [*start.box.lookup.buffers(), start.box_share]
        for buffer in buffers:
            buffer.copy_(world.all_gather(buffer[None])[0])
        if start.box is not None:
            start.box.fit_to_slices(BLUR_MM[0] / float(start.lookup.blur_pixels[0]), config.preprocess.size)
    if engine.ema is not None:
        engine.ema.networks.load_state_dict(engine.generators.state_dict())


def _fit_starts(prepared: PreparedData, settings: PreprocessSettings, starts: Mapping[str, LookupStart]) -> None:
    """Fit the lookups of generators, by target contrast, to the training slices, and say so."""
    started, stacks = time.monotonic(), stored_stacks(prepared.stored, settings)
    try:
        fit = LookupFit(stacks) if any(start.box is not None for start in starts.values()) else None
        tables = fit_context_tables(stacks) if fit is None else fit.tables()
    except ValueError as error:
        raise UserError(f"generator.start: nothing to start from, for {error}; set it to null") from error
    for contrast, table in tables.items():
        lookup, box = starts[contrast].lookup, starts[contrast].box
        lookup.set_table(torch.from_numpy(table.values), table.blur_pixels)
        if fit is not None and box is not None:
            (source,) = stacks.keys() - {contrast}
            box.fit_to_slices(BLUR_MM[0] / table.blur_pixels[0], settings.size)
            table = fit.translated_table(contrast, [_translated(stack, box) for stack in stacks[source]])
            box.lookup.set_table(torch.from_numpy(table.values), table.blur_pixels)
    fitted = " and ".join(f"{len(side)} {contrast}" for contrast, side in stacks.items())
    what = "lookup" if fit is None else "lookups"
    logger.info(
        f"{what} fitted to {fitted} images without pairs, {time.monotonic() - started:.1f} s; training corrects it"
    )


def _translated(stack: SliceStack, box: BoxTranslation) -> SliceStack:
    """Return a stack's slices as the model in the box translates them; in half precision until they are read."""
    translation = translate_slices(
        stack.slices(), box, device=box.averaged.device, batch_size=8, precision="float32", slice_mm=stack.slice_mm,
        name="a training slice", run=lambda _, batch: box.translate(batch),
    ).astype(np.float16)  # fmt: skip
    return replace(stack, read=lambda: translation.astype(np.float32), first=0, in_volume=False)


def build_failure_monitor(config: Config, folder: RunFolder, schedule: Schedule, tracker: Tracker) -> FailureMonitor:
    """Return the monitor of the validations, which knows the earlier warnings of the run."""
    return FailureMonitor(
        folder.metrics,
        epochs=schedule.epochs,
        validate_every=schedule.validate_every_epochs,
        held_near_start=getattr(config.method, "lookup_weight", 0.0) > 0,
        discriminators=_discriminator_record(config),
        tag=tracker.set_tags,
    )


def _discriminator_record(config: Config) -> DiscriminatorRecord:
    """Return a record of the discriminators' losses of an unpaired method; of none for critics, which do not judge."""
    method = config.method
    if not isinstance(method, UnpairedMethod) or method.adversarial not in CHANCE:
        return DiscriminatorRecord(1.0, {})
    scales = getattr(config.discriminator, "scales", 1)
    chance_loss = method.discriminator_scale * scales * 2 * CHANCE[method.adversarial]  # of real and translated slices
    directions = {
        f"discriminator_{side}": RunFolder.direction(config.contrasts, target)
        for side, target in zip("AB", config.contrasts, strict=True)
    }
    return DiscriminatorRecord(chance_loss, directions)


def build_training_slices(
    config: Config, prepared: PreparedData, device: torch.device, paired: bool
) -> UnpairedSlices | PairedSlices:
    """Return the training slices: both contrasts of the same slices for paired methods, else each contrast's own.

    The split's pairs, if it has any, come beside the latter.
    """
    pair_sides = [[pair.first for pair in prepared.pairs], [pair.second for pair in prepared.pairs]]
    sides: list[Sequence[StoredSlices]] = [] if paired else [prepared.stored[name] for name in config.contrasts]
    banks = [SliceBank(side, slice_neighbours(config)) for side in (*sides, *(pair_sides if prepared.pairs else []))]
    sources = on_device_slices(banks, device=device) if config.training.slices_on_device else banks
    augmentation = augmentation_of(config)
    first, second, *pair_sources = sources
    if paired:
        return PairedSlices(first, second, augmentation, config.seed)
    if not pair_sources:
        return UnpairedSlices(first, second, augmentation, config.seed)
    pairs = PairedSlices(pair_sources[0], pair_sources[1], augmentation, config.seed, PAIRS_STREAM)
    return UnpairedSlices(first, second, augmentation, config.seed, pairs)


def build_validation(
    config: Config, prepared: PreparedData, reader: PairReader, device: torch.device, quiet: bool
) -> Validation:
    """Return the validation on held-out subjects or, where there are none, on training subjects without pairs."""
    held_out, histograms, preprocess = prepared.split.validation, prepared.histograms, config.preprocess
    if not held_out:
        logger.warning("split.validation is 0: pictures and scores without pairs come from the training subjects")
    return Validation(
        held_out or [entries[0].case for entries in prepared.stored.values()],
        config.contrasts,
        scored_in_pairs=bool(held_out),
        reader=reader,
        slices=config.training.validation_slices,
        neighbours=slice_neighbours(config),
        histograms=histograms,
        coverage=prepared.coverage,
        cohorts={name: cohort(SliceBank(prepared.stored[name]), histograms[name]) for name in config.contrasts},
        device=device,
        precision=precision_on(device, config.training.precision),
        cache=CacheOptions(preprocess.store, preprocess.processes, preprocess.on_bad_volume, quiet),
    )


def evaluate_model(
    config: Config, model: TranslationModel, folder: RunFolder, prepared: PreparedData, reader: PairReader, quiet: bool
) -> Evaluation:
    """Evaluate a run's model as configured; uncertainty maps are for volumes."""
    evaluation, preprocess, reason = config.evaluation, config.preprocess, ""
    if not evaluation.uncertainty:
        reason = "evaluation.uncertainty is false"
    elif config.data.source == "images":
        reason = "the run's data are pictures, and maps are for volumes"
    return evaluate_run(
        model, folder, prepared, reader,
        protocols=evaluation.protocols, batch_size=evaluation.batch_size, translate=evaluation.translate,
        no_uncertainty=reason, processes=preprocess.processes, on_bad_volume=preprocess.on_bad_volume, quiet=quiet,
    )  # fmt: skip


def require_able_device(config: Config, folder: RunFolder, device: torch.device) -> None:
    """Refuse settings that the device does not support, with a remedy that the run's folder accepts."""
    training = config.training
    try:
        require_able(device, precision=training.precision, cuda_graph=training.cuda_graph)
    except UserError as error:
        if training.precision != "fp16" or device.type == "cuda":  # a run that has trained may change `cuda_graph`
            raise
        raise UserError(f"{error}{new_output_advice(folder)}") from error


def prepare_run(
    config: Config, folder: RunFolder, history: History, version: int, quiet: bool, *, save: bool
) -> PreparedData:
    """Prepare the data and save the configuration, split and range that the run keeps from now on.

    A saved split is used if the run has trained on it, or if the first process has just saved it (not `save`).
    """
    keep = folder.has_trained() or not save
    split, coverage = (path if path.exists() and keep else None for path in (folder.split, folder.coverage))
    cases = find_splittable_cases(config, split, quiet=quiet)
    if save:
        warn_before_the_work(config, cases, split)
        warn_of_other_split(config, cases, split)
    paired = learns_from_pairs(config)
    prepared = prepare_data(config, cases, split, saved_coverage=coverage, paired=paired, quiet=quiet, version=version)
    if save:
        prepared = replace(prepared, regions=find_regions(config, prepared.split.test))
        save_config(folder, config, [f"{name}: {text}" for name, text in history_texts(history).items()])
        atomic_text(folder.split, json_text(split_to_json(prepared.split)))
        if config.preprocess.coverage_mm != "all":
            atomic_text(folder.coverage, json_text(coverage_json(prepared.coverage)))
        else:
            folder.coverage.unlink(missing_ok=True)  # of an earlier try, before anything was trained
    return prepared
