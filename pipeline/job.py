"""A whole run: prepare, train, evaluate, translate, report; begun anew or taken up where it stands."""

import time
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from pipeline.checkpoint import random_state, restore_random_state
from pipeline.config.schema import Config
from pipeline.console import say, warn
from pipeline.data.case import pairs
from pipeline.data.loader import SliceBank, UnpairedSlices
from pipeline.data.split_file import split_to_json
from pipeline.engines.build import build_engine
from pipeline.engines.protocol import Engine
from pipeline.errors import UserError
from pipeline.evaluate import MODEL, evaluate
from pipeline.files import atomic_text
from pipeline.gallery import draw_curves, draw_gifs, translate_test_volumes
from pipeline.hardware import choose_device, set_up
from pipeline.interruption import Interruption
from pipeline.logged_models import log_models
from pipeline.model import TranslationModel, load_model, translator_metadata
from pipeline.pairing import PairReader, PreparedScan
from pipeline.prepare import Prepared, chain_settings, find_cases, prepare
from pipeline.run_folder import RunFolder, json_text, open_run_folder
from pipeline.scores import Scores
from pipeline.summary import last_lines, write_summary
from pipeline.tracking import Tracker
from pipeline.train import Observers, Position, Schedule, train
from pipeline.translator import translate_slices
from pipeline.validation import Validation, save_sample
from transforms.augmentation import Augmentation


def run(config: Config, *, quiet: bool = False) -> None:
    """Do the run that a configuration describes; continue it where its folder already holds a part of it.

    Raises:
        UserError: bad data or settings; nothing already done is lost.
        Stopped: a signal came and a checkpoint is written.
    """
    started = time.monotonic()
    folder = open_run_folder(config)
    set_up(config.threads)
    device = choose_device(config.device)
    if config.training.precision == "fp16" and device.type != "cuda":
        raise UserError("training.precision = fp16: needs a CUDA device, and there is none; use bf16 or float32")
    prepared = _prepare(config, folder, quiet)
    torch.manual_seed(config.seed)
    engine = build_engine(config, device)
    reader = PairReader(
        chain_settings(config.preprocess),
        max(network.stride for network in engine.translators().values()),
        register=config.evaluation.register_pairs,
        cache=config.preprocess.store / "registrations",
    )
    state = folder.checkpoints.load_newest()
    position = Position()
    if state is not None:
        engine.load_state_dict(state["engine"])
        position = Position(**state["position"])
        say(f"continuing {folder.path} after step {position.step:,}")
    with (
        Interruption() as interruption,
        Tracker(
            folder.path,
            experiment=config.tracking.experiment,
            run_name=config.tracking.run_name or config.name,
            params=config.model_dump(mode="json"),
            step=None if state is None else position.step,
            run_id=None if state is None else state["mlflow_run_id"],
            tags={"data": config.data.source, "method": config.method.type, "device": str(device)},
            mlflow=config.tracking.mlflow,
        ) as tracker,
    ):
        _log_inputs(tracker, config, folder, prepared)
        _train(config, folder, prepared, engine, position, state, reader, tracker, interruption, device, quiet)
        with interruption.at_once():
            _finish(config, folder, prepared, engine, position, reader, tracker, device, quiet)
        how_to_open = tracker.how_to_open()
    say(last_lines(folder, how_to_open, time.monotonic() - started))


def _prepare(config: Config, folder: RunFolder, quiet: bool) -> Prepared:
    """Prepare the data, and write down the configuration and the split that the run has from now on."""
    saved_split = folder.split if folder.split.exists() else None
    prepared = prepare(config, find_cases(config, quiet=quiet), saved_split, quiet=quiet)
    if not prepared.split.test:  # said now, not after hours of training
        raise UserError("the split has no test subject; set split.test to 1 or more")
    folder.save_config(config)
    atomic_text(folder.split, json_text(split_to_json(prepared.split)))
    return prepared


def _log_inputs(tracker: Tracker, config: Config, folder: RunFolder, prepared: Prepared) -> None:
    """Log configuration, split and the data of each part."""
    tracker.log_artifact(folder.config)
    tracker.log_artifact(folder.split)
    source = str(config.data.folder)
    for contrast, entries in prepared.stored.items():
        profile = {name: prepared.facts[contrast][name] for name in ("slices", "low", "high")}
        tracker.log_dataset(contrast, "train", source, [entry.case.name for entry in entries], profile)
    for part in ("validation", "test"):
        tracker.log_dataset(part, part, source, [case.name for case in getattr(prepared.split, part)])


def _train(
    config: Config,
    folder: RunFolder,
    prepared: Prepared,
    engine: Engine,
    position: Position,
    state: dict | None,
    reader: PairReader,
    tracker: Tracker,
    interruption: Interruption,
    device: torch.device,
    quiet: bool,
) -> None:
    """Train what is still to be trained."""
    first, second = config.contrasts
    slices = UnpairedSlices(
        SliceBank(prepared.stored[first]),
        SliceBank(prepared.stored[second]),
        Augmentation(**config.augment.model_dump()),
        config.seed,
    )
    schedule = _schedule(config, len(slices))
    if position.epochs == schedule.epochs:
        return
    held_out = prepared.split.validation
    if not held_out:
        warn("warning: split.validation is 0: pictures and scores without pairs come from the training subjects")
    validation = Validation(
        held_out or [prepared.stored[contrast][0].case for contrast in config.contrasts],
        config.contrasts,
        scored_in_pairs=bool(held_out),
        reader=reader,
        slices=config.training.validation_slices,
        histograms={contrast: facts["histogram"] for contrast, facts in prepared.facts.items()},
        device=device,
        quiet=quiet,
    )
    if state is not None:  # after all that might draw random numbers
        restore_random_state(state["random"])
    observers = Observers(
        log=tracker.log_metrics,
        validate=lambda: validation.scores(_by_contrast(config, engine)),
        sample=partial(_sample, config, folder, validation, engine, tracker),
        save=partial(_save, config, folder, prepared, engine, tracker),
        bar=lambda done, total: tqdm(
            initial=done, total=total, desc="training", unit="step", disable=quiet, dynamic_ncols=True, mininterval=0.5
        ),
    )
    train(engine, slices, schedule, position, observers, device=device, interruption=interruption)


def _schedule(config: Config, slices: int) -> Schedule:
    training = config.training
    return Schedule(
        steps_per_epoch=training.steps_per_epoch or -(-slices // training.batch_size),
        constant_epochs=training.epochs,
        decay_epochs=training.decay_epochs,
        batch_size=training.batch_size,
        loader_workers=training.loader_workers,
        log_every=training.log_every,
        validate_every_epochs=training.validate_every,
        sample_every_epochs=training.sample_every,
        checkpoint_seconds=60 * training.checkpoint_minutes,
        max_bad_steps=training.max_bad_steps,
    )


def _by_contrast(config: Config, engine: Engine) -> dict[str, torch.nn.Module]:
    """Return the engine's translators by the target contrast's name."""
    translators = engine.translators()
    return {contrast: translators[side] for side, contrast in zip("ab", config.contrasts, strict=True)}


def _sample(
    config: Config, folder: RunFolder, validation: Validation, engine: Engine, tracker: Tracker, epoch: int, step: int
) -> None:
    """Draw the fixed validation slices as the networks translate them now."""
    oriented = config.data.source != "images"
    panels = validation.panels(_by_contrast(config, engine), config.training.sample_slices, oriented=oriented)
    for target, panel in panels.items():
        direction = folder.direction(config.contrasts, target)
        save_sample(folder.samples, direction, epoch, panel)
        tracker.log_image(f"samples/{direction}", panel, step)


def _save(
    config: Config, folder: RunFolder, prepared: Prepared, engine: Engine, tracker: Tracker, position: dict, best: bool
) -> None:
    """Write a checkpoint: all that a bitwise resume needs, and all that a translation needs."""
    translators = _by_contrast(config, engine)
    state = {
        "config": config.model_dump(mode="json"),
        "facts": prepared.facts,
        "split": split_to_json(prepared.split),
        "translators": {contrast: network.state_dict() for contrast, network in translators.items()},
        "engine": engine.state_dict(),
        "position": position,
        "random": random_state(),
        "mlflow_run_id": tracker.run_id,
    }
    folder.checkpoints.save(state, best=best)


def _finish(
    config: Config,
    folder: RunFolder,
    prepared: Prepared,
    engine: Engine,
    position: Position,
    reader: PairReader,
    tracker: Tracker,
    device: torch.device,
    quiet: bool,
) -> None:
    """Evaluate the chosen checkpoint, translate the test subjects, draw, report, and log it all."""
    checkpoints = folder.checkpoints
    chosen = (
        checkpoints.best if config.evaluation.checkpoint == "best" and checkpoints.best.exists() else checkpoints.latest
    )
    model = load_model(chosen, str(device.type))
    scores = _evaluate(config, folder, prepared, model, reader, quiet)
    say(f"\n{scores.text()}\n")
    files = scores.save(folder.path)
    gifs = draw_gifs(folder, config.contrasts)
    curves = draw_curves(folder, _schedule(config, prepared.longest).steps_per_epoch)
    volumes = []
    if config.evaluation.translate:
        volumes = translate_test_volumes(
            prepared.split.test, model, reader, folder, config.contrasts, config.evaluation.batch_size, quiet
        )
    write_summary(config, folder, prepared, scores, volumes, gifs, curves, position, engine)
    tracker.log_metrics(_final_metrics(scores), position.step)
    for path in [*files, *gifs.values(), curves, folder.report, *(volume.mosaic for volume in volumes)]:
        tracker.log_artifact(path, "mosaics" if path.parent == folder.mosaics else None)
    log_models(
        tracker,
        model,
        {to: translator_metadata(config, prepared.facts, to, model.stride) for to in model.translators},
        folder.models,
        checkpoint=f"{chosen.stem}, training stopped at step {position.step}",
        register_as=config.tracking.register_as,
    )


def _evaluate(
    config: Config, folder: RunFolder, prepared: Prepared, model: TranslationModel, reader: PairReader, quiet: bool
) -> Scores:
    training_pairs = pairs(_everyone_in_training(config, prepared), config.contrasts)
    return evaluate(
        prepared.split.test,
        training_pairs,
        config.contrasts,
        partial(_translate_scan, model, config.evaluation.batch_size),
        reader=reader,
        histograms={contrast: facts["histogram"] for contrast, facts in prepared.facts.items()},
        protocols=config.evaluation.protocols,
        registrations=folder.registration,
        quiet=quiet,
    )


def _everyone_in_training(config: Config, prepared: Prepared) -> list:
    """Return every case of the training subjects, those too that unpaired training keeps from the model."""
    subjects = {case.subject for cases in prepared.split.train.values() for case in cases}
    return [case for case in prepared.cases if case.subject in subjects and case.contrast in config.contrasts]


def _translate_scan(model: TranslationModel, batch_size: int, scan: PreparedScan, to: str) -> np.ndarray:
    return translate_slices(
        scan.slices,
        model.translators[to],
        scan.occupied,
        device=model.device,
        batch_size=batch_size,
        precision=model.precision,
        name="a test volume",
    )


def _final_metrics(scores: Scores) -> dict[str, float]:
    """Return the test means under the names that MLflow compares: of a baseline, only those inside the head."""
    return {
        f"test/{row.source}_to_{row.target}/{row.system.replace(' ', '_')}/"
        f"{row.protocol}/{row.unit}_{row.region}_{row.metric}": row.mean
        for row in scores.summary()
        if np.isfinite(row.mean) and (row.system == MODEL or (row.unit, row.region) == ("volume", "foreground"))
    }
