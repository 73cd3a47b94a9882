"""Whole runs of the command, as small as they can be, on a cohort that is made once."""

import hashlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
from shared_folder import made_once, shared_folder

from pipeline.run import main
from pipeline.runs.checkpoint import CheckpointFolder, load_checkpoint
from pipeline.tracking.metrics_file import read_metrics

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = (
    "data.subjects=6", "data.spacing_mm=8", "preprocess.size=32", "preprocess.processes=1", "split.validation=1",
    "split.test=1", "generator.depth=2", "generator.width=4", "discriminator.layers=2", "discriminator.width=4",
    "training.steps_per_epoch=4", "training.epochs=1", "training.decay_epochs=1", "training.log_every=1",
    "training.validate_every=1", "training.validation_slices=6", "training.learning_rate=0.0002",
    "training.batch_size=1", "threads=1", "device=cpu",
)  # fmt: skip
QUICK = ("tracking.mlflow=false", "evaluation.protocols=[]")


def workshop() -> Path:
    """A folder with the phantoms and slices that all runs share."""
    return shared_folder("workshop")


def _fitted_once(fit: Callable, stacks: dict) -> dict:
    """Return the lookups fitted to slices, or those that an earlier run of the tests fitted to the same."""
    from transforms.context_lookup import ContextTable

    # Name them by everything that they are fitted to.
    digest = hashlib.sha256()
    for contrast, side in stacks.items():
        for stack in side:
            slices = np.ascontiguousarray(stack.read())
            others = {**vars(stack), "read": slices.shape, "positions_mm": stack.positions_mm.tolist()}
            digest.update(repr((contrast, others)).encode())
            digest.update(slices)

    def make(folder: Path) -> None:
        for contrast, table in fit(stacks).items():
            np.savez(folder / f"{contrast}.npz", values=table.values, blur_pixels=table.blur_pixels)

    folder = made_once(f"tables-{digest.hexdigest()}", make)
    tables = {contrast: np.load(folder / f"{contrast}.npz", allow_pickle=False) for contrast in stacks}
    return {
        contrast: ContextTable(table["values"], tuple(table["blur_pixels"].tolist()))
        for contrast, table in tables.items()
    }


@contextmanager
def lookups_fitted_once() -> Iterator[None]:
    """Fit no lookup twice to the same slices within the block, which takes a third of a small run."""
    from pipeline import run_builders
    from pipeline.evaluation import finish

    name = "fit_context_tables"
    first, second = (patch.object(part, name, _remembering(getattr(part, name))) for part in (run_builders, finish))
    with first, second:
        yield


def command(arguments: Sequence[str]) -> int:
    """Run the command with `lookups_fitted_once`."""
    with lookups_fitted_once():
        return main(arguments)


def _remembering(fit: Callable | None) -> Callable | None:
    return fit if fit is None or isinstance(fit, partial) else partial(_fitted_once, fit)


def phantom_run(output: Path, *overrides: str, quiet: bool = True) -> int:
    """Run the command on the phantom, small; return its exit code."""
    shared = (f"data.folder={workshop() / 'phantom'}", f"preprocess.store={workshop() / 'store'}")
    return command(
        [str(CONFIGS / "phantom.yaml"), *TINY, *shared, f"output={output}", *overrides, *["--quiet"] * quiet]
    )


SHORT = (
    "training.steps_per_epoch=1",
    "training.decay_epochs=0",
    "evaluation.translate=false",
)  # for `finished_phantom`


def finished_phantom() -> Path:
    """Return the folder of a run named "a" that is finished, if only after one step; tests leave it as it is."""

    def make(folder: Path) -> None:
        with without_pictures():
            assert phantom_run(folder / "a", *QUICK, *SHORT, "name=a") == 0

    return made_once("finished-phantom", make) / "a"


@contextmanager
def without_evaluation() -> Iterator[None]:
    """Have runs within the block end with their training."""
    import pipeline.train

    with patch.object(pipeline.train, "finish", lambda *_: None):
        yield


def train_phantom(output: Path, *overrides: str) -> int:
    """Do all of `phantom_run` but its evaluation and report, which take most of its time."""
    with without_evaluation():
        return phantom_run(output, *overrides)


@contextmanager
def without_pictures() -> Iterator[None]:
    """Leave curves and animations out of runs within the block, and have an empty report."""
    import pipeline.train

    def empty(folder, *_, **__):
        folder.report.touch()

    without = {"draw_gifs": lambda *_: {}, "save_curves": Mock(), "write_run_report": empty}
    with patch.multiple(pipeline.train, **without):
        yield


@contextmanager
def empty_models() -> Iterator[None]:
    """Have models that are logged within the block hold no network: to make a graph of one takes seconds."""
    from torch import nn

    from pipeline.tracking import mlflow_models

    export = mlflow_models.export_translator

    def export_nothing(_, *where, **options):
        export(nn.Identity(), *where, **options)

    with patch.object(mlflow_models, "export_translator", export_nothing):
        yield


def in_child(action: Callable[[], int]) -> int:
    """Do something in a process of its own, a copy of this one; return its exit code, negative for a signal's."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = action()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@contextmanager
def copied_after(step: int, target: Path) -> Iterator[None]:
    """Have a run within the block leave a copy of its folder, as a kill after the checkpoint of a step would."""
    save = CheckpointFolder.save

    def save_and_copy(checkpoints: CheckpointFolder, state: dict, **options) -> None:
        save(checkpoints, state, **options)
        if state["position"]["step"] == step:
            shutil.copytree(checkpoints.folder.parent, target)

    with patch.object(CheckpointFolder, "save", save_and_copy):
        yield


def signal_at(monkeypatch, number: int, step: int) -> None:
    """Have this process sent a signal in the middle of a training step, counted from 1 over the engine's life."""
    from pipeline.engines.base import Engine

    make_step, count = Engine.step, 0

    def step_then_signal(engine, *images):
        nonlocal count
        losses = make_step(engine, *images)
        count += 1
        if count == step:
            os.kill(os.getpid(), number)
        return losses

    monkeypatch.setattr(Engine, "step", step_then_signal)


def latest(output: Path) -> dict:
    """The newest checkpoint of a run."""
    return load_checkpoint(CheckpointFolder(output / "checkpoints").latest)


def unlike(first: Path, second: Path) -> set[str]:
    """Where the newest checkpoints of two runs differ in what decides on the weights, and in what goes with them."""
    from small_engine import differences

    parts = ("engine", "translators", "random", "facts", "split", "data")
    states = [
        {name: state[name] for name in parts} | {"position": {**state["position"], "seconds": 0}}
        for state in map(latest, (first, second))
    ]
    return differences(*states)


def logged(output: Path) -> list[dict]:
    """The records of a run's metrics, without their times."""
    records = read_metrics(output / "metrics.jsonl")[0]
    return [{key: value for key, value in record.items() if key != "time"} for record in records]
