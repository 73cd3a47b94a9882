"""`--dry-run`: what a run would do, worked out without touching anything."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.schema import Config
from pipeline.console import say, table, warn
from pipeline.data.case import Case, pairs
from pipeline.data.split import CohortSplit
from pipeline.errors import UserError
from pipeline.files import human_bytes
from pipeline.runs.folder import open_run_folder
from pipeline.runs.prepare import find_cases, split_cases, warn_of_the_lone
from pipeline.training.history import start_text
from pipeline.training.start import read_start

if TYPE_CHECKING:
    from torch import nn

    from pipeline.engines.protocol import Engine

BYTES_PER_PIXEL = 2  # the store holds uint16


def print_plan(config: Config) -> None:
    """Print subjects and slices per split and contrast, networks, steps, and estimated disk and memory.

    Raises:
        UserError: as the run itself would: no data, too few subjects, a folder that holds another run.
    """
    open_run_folder(config)  # refuses one that holds another run; makes none
    start = read_start(config)
    cases = planned_cases(config)
    split = split_cases(config, cases)
    slices = {contrast: _slices(split.train[contrast], config) for contrast in config.contrasts}
    engine = _engine(config)
    together = 0  # slices that are there in both contrasts, on the first one's grid
    if engine.paired:
        warn_of_the_lone(config, cases, split)
        together = _slices(_firsts(split.train.values(), config), config)
    longest = together or max(slices.values())
    steps_per_epoch = config.training.steps_per_epoch or -(-longest // config.training.batch_size)
    epochs = config.training.epochs + config.training.decay_epochs
    parameters = {name: _count(network) for name, network in engine.networks().items()}
    say(f"{config.name}: {config.data.source} data → {config.folder}\n")
    if start is not None:
        say(f"weights    of {start_text(start.record)}\n")
    rows = _split_rows(config, split, engine.paired)
    say(table(["split", "contrast", "subjects", "images", "slices (estimate)"], rows))
    say()
    say(table(["network", "parameters"], [(name, f"{count:,}") for name, count in parameters.items()]))
    say()
    say(f"steps      {steps_per_epoch:,} an epoch × {epochs:,} epochs = {steps_per_epoch * epochs:,}, "
        f"batch {config.training.batch_size}")  # fmt: skip
    say(f"disk       {human_bytes(_disk(config, sum(slices.values()) + 2 * together, engine))} "
        "(slice store, three checkpoints; translated volumes come on top)")  # fmt: skip
    resident = ""
    if config.training.slices_on_device:
        trained_on = 2 * together or sum(slices.values())
        resident = f", and {human_bytes(trained_on * config.preprocess.size**2 * BYTES_PER_PIXEL)} of slices"
    say(f"memory     {human_bytes(_memory(config, engine))}{resident} while training, besides the libraries' own")
    _warn_of_device(config)
    say("dry run: nothing was written")


def _warn_of_device(config: Config) -> None:
    """Say that the run would be refused on this machine; it may be meant for another."""
    from pipeline.hardware import choose_device, require_able

    training = config.training
    try:
        require_able(choose_device(config.device), precision=training.precision, cuda_graph=training.cuda_graph)
    except UserError as error:
        warn(f"warning: {error}")


def planned_cases(config: Config) -> list[Case]:
    """Return the cases the run would find, making none: those of a phantom lie where they would be made."""
    if config.data.source != "phantom":
        return find_cases(config)
    from pipeline.data.phantom import planned_phantom

    data = config.data
    planned = planned_phantom(
        data.folder, config.contrasts, subjects=data.subjects, spacing_mm=data.spacing_mm, seed=data.seed
    )
    return [case for of_subject in planned.values() for case in of_subject]


def _split_rows(config: Config, split: CohortSplit, paired: bool) -> list[tuple[str, str, int, int, int]]:
    parts = [("train", contrast, split.train[contrast]) for contrast in config.contrasts]
    if paired:
        parts.append(("train", "pairs", _firsts(split.train.values(), config)))
    for name in ("validation", "test"):
        cases = getattr(split, name)
        parts += [(name, kind, [case for case in cases if case.contrast == kind]) for kind in config.contrasts]
        parts.append((name, "pairs", _firsts([cases], config)))
    return [
        (name, kind, len({case.subject for case in part}), len(part), _slices(part, config))
        for name, kind, part in parts
    ]


def _firsts(parts: Iterable[Sequence[Case]], config: Config) -> list[Case]:
    """Return the first contrast's images of the pairs among the cases."""
    return [first for first, _ in pairs([case for part in parts for case in part], config.contrasts)]


def _slices(cases: Sequence[Case], config: Config) -> int:
    """Estimate how many slices cases have: from one volume's header, three quarters of them occupied."""
    if not cases:
        return 0
    if config.data.source == "images":
        return len(cases)
    from nibabel.affines import voxel_sizes

    from transforms.spatial import orientation_of

    shape, affine = _grid(cases, config)
    along = {"sagittal": 0, "coronal": 1, "axial": 2}[config.preprocess.axis]
    axis = int((orientation_of(affine)[:, 0] == along).argmax())
    spacing = config.preprocess.spacing_mm
    slices = shape[axis] * voxel_sizes(affine)[axis] / spacing.through_plane if spacing else shape[axis]
    return round(0.75 * slices) * len(cases)


def _grid(cases: Sequence[Case], config: Config) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine of the first case whose header can be read."""
    if config.data.source == "phantom":
        from pipeline.data.head import grid

        return grid(config.data.spacing_mm)
    from nibabel import load
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    for case in cases:
        try:
            image = load(case.path)
        except (OSError, ImageFileError, HeaderDataError):  # the run names it and leaves it out
            continue
        return image.shape, image.affine
    raise UserError(f"{cases[0].path}: not readable as NIfTI, nor is any other of {len(cases)} images like it")


def _engine(config: Config) -> "Engine":
    """Return the run's engine on torch's meta device, which allocates nothing."""
    import torch

    from pipeline.engines.build import build_engine

    with torch.device("meta"):  # the initial weights' random draws draw nothing there
        return build_engine(config, torch.device("meta"))


def _weights(networks: "Iterable[nn.Module]") -> "set[nn.Parameter]":
    """Return the weights of some networks, one that several share once."""
    return {weight for network in networks for weight in network.parameters()}


def _count(*networks: "nn.Module") -> int:
    return sum(weight.numel() for weight in _weights(networks))


def _disk(config: Config, slices: int, engine: "Engine") -> float:
    """Estimate the slice store and three checkpoints: of each weight Adam's two moments too, and the averages."""
    pixels = config.preprocess.size**2
    weights = _count(*engine.networks().values())
    averaged = _count(*engine.best_generators().values()) if config.method.ema_decay else 0
    pools = 2 * getattr(config.method, "pool_size", 0) * pixels
    return slices * pixels * BYTES_PER_PIXEL + 3 * 4 * (3 * weights + averaged + pools)


def _memory(config: Config, engine: "Engine") -> float:
    """Add up weights, gradients, Adam's moments and what the costliest step keeps of its passes for the gradients."""
    import torch

    weights = _weights(engine.networks().values())
    known = {weight.untyped_storage()._cdata for weight in weights}
    passes = 0
    for made in range(getattr(config.method, "critic_steps", 1)):  # in one of so many steps the generators move too
        if made:
            engine.moved(torch.tensor(True))
        passes = max(passes, _kept_for_gradients(config, engine, known))
    return 4 * 4 * sum(weight.numel() for weight in weights) + passes


def _kept_for_gradients(config: Config, engine: "Engine", known: set[int]) -> int:
    """Return the bytes that the passes of the engine's next step keep, besides storages that are `known`."""
    import torch

    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    images = torch.zeros(config.training.batch_size, 1, config.preprocess.size, config.preprocess.size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = engine.losses(images, images)  # held, so that no storage's address is given out twice
    del losses
    return sum(size for storage, size in kept.items() if storage not in known)
