"""`--dry-run`: what a run would do, worked out without touching anything."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.config.schema import Config
from pipeline.console import say, table
from pipeline.data.case import Case, pairs
from pipeline.data.split import CohortSplit
from pipeline.errors import UserError
from pipeline.files import human_bytes
from pipeline.prepare import find_cases, split_cases

BYTES_PER_PIXEL = 2  # the store holds uint16


def print_plan(config: Config) -> None:
    """Print subjects and slices per split and contrast, networks, steps, and estimated disk and memory.

    Raises:
        UserError: as the run itself would: no data, too few subjects.
    """
    cases = planned_cases(config)
    split = split_cases(config, cases)
    slices = {contrast: _slices(split.train[contrast], config) for contrast in config.contrasts}
    steps_per_epoch = config.training.steps_per_epoch or -(-max(slices.values()) // config.training.batch_size)
    epochs = config.training.epochs + config.training.decay_epochs
    parameters = _parameters(config)
    say(f"{config.name}: {config.data.source} data → {config.folder}\n")
    say(table(["split", "contrast", "subjects", "images", "slices (estimate)"], _split_rows(config, split)))
    say()
    say(table(["network", "parameters"], [(name, f"{count:,}") for name, count in parameters.items()]))
    say()
    say(f"steps      {steps_per_epoch:,} an epoch × {epochs:,} epochs = {steps_per_epoch * epochs:,}, "
        f"batch {config.training.batch_size}")  # fmt: skip
    say(f"disk       {human_bytes(_disk(config, sum(slices.values()), parameters))} "
        "(slice store, three checkpoints; translated volumes come on top)")  # fmt: skip
    say(f"memory     {human_bytes(_memory(config, parameters))} while training, besides the libraries' own")
    say("dry run: nothing was written")


def planned_cases(config: Config) -> list[Case]:
    """Return the cases the run would find; those of a phantom that is not made yet are only imagined."""
    if config.data.source != "phantom":
        return find_cases(config)
    from pipeline.data.phantom import check_request

    check_request(config.contrasts, config.data.subjects, config.data.spacing_mm, config.data.seed)
    return [
        Case(f"phantom-{number:04d}", "", contrast, Path(f"phantom-{number:04d}_{contrast}.nii.gz"))
        for number in range(1, config.data.subjects + 1)
        for contrast in config.contrasts
    ]


def _split_rows(config: Config, split: CohortSplit) -> list[tuple[str, str, int, int, int]]:
    parts = [("train", contrast, split.train[contrast]) for contrast in config.contrasts]
    for name in ("validation", "test"):
        cases = getattr(split, name)
        parts += [(name, kind, [case for case in cases if case.contrast == kind]) for kind in config.contrasts]
        parts.append((name, "pairs", [first for first, _ in pairs(cases, config.contrasts)]))
    return [
        (name, kind, len({case.subject for case in part}), len(part), _slices(part, config))
        for name, kind, part in parts
    ]


def _slices(cases: Sequence[Case], config: Config) -> int:
    """Estimate how many slices cases have: from one volume's header, three quarters of them occupied."""
    if not cases:
        return 0
    if config.data.source == "images":
        return len(cases)
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import io_orientation

    shape, affine = _grid(cases, config)
    along = {"sagittal": 0, "coronal": 1, "axial": 2}[config.preprocess.axis]
    axis = int((io_orientation(affine)[:, 0] == along).argmax())
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

    for case in cases:
        try:
            image = load(case.path)
        except (OSError, ImageFileError):  # the run names it and leaves it out
            continue
        return image.shape, image.affine
    raise UserError(f"{cases[0].path}: not readable as NIfTI, nor is any other of {len(cases)} images like it")


def _parameters(config: Config) -> dict[str, int]:
    """Count the parameters of each network on torch's meta device, which allocates nothing."""
    import torch

    from pipeline.engines.build import build_engine

    with torch.device("meta"):
        networks = build_engine(config, torch.device("meta")).networks()
    return {name: sum(weight.numel() for weight in network.parameters()) for name, network in networks.items()}


def _disk(config: Config, slices: int, parameters: dict[str, int]) -> float:
    store = slices * config.preprocess.size**2 * BYTES_PER_PIXEL
    weights = 4 * sum(parameters.values())
    averaged = 4 * _generators(parameters) if config.method.ema_decay else 0
    pools = 2 * config.method.pool_size * config.preprocess.size**2 * 4
    return store + 3 * (3 * weights + averaged + pools)  # weights and Adam's two moments


def _memory(config: Config, parameters: dict[str, int]) -> float:
    """Estimate weights, gradients, Adam's moments and activations (about 60 maps of full size and width per image)."""
    weights = 4 * sum(parameters.values())
    activations = 4 * config.training.batch_size * config.preprocess.size**2 * config.generator.width * 12
    return 4 * weights + activations


def _generators(parameters: dict[str, int]) -> int:
    return parameters["G"] + parameters["F"]
