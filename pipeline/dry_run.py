"""`--dry-run`: the plan of a run, computed without writing anything."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.schema import Config
from pipeline.data.case import Case, pairs
from pipeline.data.splits import CohortSplit
from pipeline.data_builders import planned_cases, schedule_of, split_cases
from pipeline.planning.cohort import subject_names
from pipeline.planning.disk import BYTES_PER_PIXEL, DiskNeed, disk_needs, disk_text, warn_of_full_disks
from pipeline.planning.durations import cpu_work_text, time_text
from pipeline.run_config import open_run_folder
from pipeline.runs.contrast_warnings import warn_of_headers
from pipeline.runs.prepare import warn_unpaired
from pipeline.training.history import start_text
from pipeline.training.initial_weights import read_initial_weights
from pipeline.training.schedule import warn_of_lost_rate
from pipeline.utils.console import echo, table, warn
from pipeline.utils.errors import UserError
from pipeline.utils.files import human_bytes

if TYPE_CHECKING:
    from torch import nn

    from pipeline.engines.base import Engine


def print_dry_run(config: Config, *, verbose: bool = False) -> None:
    """Print subjects and slices per split and contrast, networks, steps, and estimated time, disk and memory.

    Args:
        config: Configuration of the run.
        verbose: Whether to name every subject.

    Raises:
        UserError: Whatever the run itself would refuse: no data, too few subjects, a folder of another run.
    """
    # Find the cases and split them, with the run's own checks.
    folder = open_run_folder(config)  # refuses a folder of another run, and makes none
    engine, settings = meta_engine(config), config.model_dump(mode="json")
    start = read_initial_weights(config.training.start_from, folder, settings, lambda: engine)
    cases = planned_cases(config)
    split = split_cases(config, cases, folder.file_in_use(folder.split))
    warn_of_headers(config, cases, split, paired=engine.paired)

    # Estimate slices, steps, disk space and memory.
    slices = {contrast: _slice_count(split.train[contrast], config) for contrast in config.contrasts}
    paired_slices = 0  # slices of registered pairs, on the first scan's grid
    if engine.paired:
        warn_unpaired(config, cases, split)
        paired_slices = _slice_count(_first_scans_of_pairs(split.train.values(), config), config)
    schedule = schedule_of(config.training, paired_slices or max(slices.values()))
    needs, memory = planned_disk(config, split, engine), _training_bytes(config, engine)
    parameters = {name: _parameter_count(network) for name, network in engine.networks().items()}

    # Print the tables.
    echo(f"{config.name}: {config.data.source} data → {config.folder}\n")
    if start is not None:
        echo(f"weights    of {start_text(start.record)}\n")
    rows = _split_rows(config, split, engine.paired)
    echo(table(["split", "contrast", "subjects", "images", "slices (estimate)"], rows))
    echo()
    echo(subject_names(config, split, every=verbose))
    echo()
    echo(table(["network", "parameters"], [(name, f"{count:,}") for name, count in parameters.items()]))
    echo()

    # Print steps, time, disk space, memory and warnings.
    echo(f"steps      {schedule.steps_per_epoch:,} an epoch × {schedule.epochs:,} epochs = {schedule.steps:,}, "
        f"batch {config.training.batch_size}")  # fmt: skip
    echo(time_text(config, engine, schedule.steps, memory))
    echo(disk_text(needs))
    resident = ""
    if config.training.slices_on_device:
        trained_on = 2 * paired_slices or sum(slices.values())
        resident = f", and {human_bytes(trained_on * config.preprocess.size**2 * BYTES_PER_PIXEL)} of slices"
    echo(f"memory     {human_bytes(memory)}{resident} while training, besides the libraries' own")
    echo(cpu_work_text(config, split, lambda cases: _typical_grid(cases, config), paired=engine.paired))
    _warn_of_device(config)
    warn_of_lost_rate(schedule)
    warn_of_full_disks(needs)
    echo("dry run: nothing was written")


def _warn_of_device(config: Config) -> None:
    """Warn if the run would be refused on this machine; it may be meant for another one."""
    from pipeline.utils.hardware import choose_device, require_able

    training = config.training
    try:
        require_able(choose_device(config.device), precision=training.precision, cuda_graph=training.cuda_graph)
    except UserError as error:
        warn(f"warning: {error}")


def warn_before_the_work(config: Config, cases: Sequence[Case], saved_split: Path | None) -> None:
    """Warn before training if the run's output will not fit its disks.

    Args:
        config: Configuration of the run.
        cases: All cases of its source.
        saved_split: File with the split of a resumed run; None for a new run.
    """
    with suppress(UserError):  # the run itself reports problems of the data
        warn_of_full_disks(planned_disk(config, split_cases(config, cases, saved_split), meta_engine(config)))


def _split_rows(config: Config, split: CohortSplit, paired: bool) -> list[tuple[str, str, int, int, int]]:
    entries = [("train", contrast, split.train[contrast]) for contrast in config.contrasts]
    if paired:
        entries.append(("train", "pairs", _first_scans_of_pairs(split.train.values(), config)))
    for name in ("validation", "test"):
        cases = getattr(split, name)
        entries += [(name, kind, [case for case in cases if case.contrast == kind]) for kind in config.contrasts]
        entries.append((name, "pairs", _first_scans_of_pairs([cases], config)))
    return [
        (
            name,
            kind,
            len({case.subject for case in subset_cases}),
            len(subset_cases),
            _slice_count(subset_cases, config),
        )
        for name, kind, subset_cases in entries
    ]


def _first_scans_of_pairs(case_lists: Iterable[Sequence[Case]], config: Config) -> list[Case]:
    """Return the first contrast's scan of each pair among the cases."""
    return [first for first, _ in pairs([case for case_list in case_lists for case in case_list], config.contrasts)]


def _slice_count(cases: Sequence[Case], config: Config) -> int:
    """Estimate the number of slices of cases: three quarters of those in the first readable header, for each case."""
    if not cases:
        return 0
    if config.data.source == "images":
        return len(cases)
    from nibabel.affines import voxel_sizes

    from transforms.spatial import orientation_of

    shape, affine = _typical_grid(cases, config)
    along = {"sagittal": 0, "coronal": 1, "axial": 2}[config.preprocess.axis]
    axis = int((orientation_of(affine)[:, 0] == along).argmax())
    spacing = config.preprocess.spacing_mm
    slices = shape[axis] * voxel_sizes(affine)[axis] / spacing.through_plane if spacing else shape[axis]
    return round(0.75 * slices) * len(cases)


def _typical_grid(cases: Sequence[Case], config: Config) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine of the first case with a readable header."""
    if config.data.source == "phantom":
        from pipeline.data.sources.phantom_anatomy import grid

        return grid(config.data.spacing_mm)
    from nibabel import load
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    for case in cases:
        try:
            image = load(case.path)
        except (OSError, ImageFileError, HeaderDataError):  # the run reports it and leaves it out
            continue
        return image.shape, image.affine
    raise UserError(f"{cases[0].path}: not readable as NIfTI, nor is any other of {len(cases)} images like it")


def meta_engine(config: Config) -> "Engine":
    """Return the run's engine on torch's meta device, which allocates nothing."""
    import torch

    from pipeline.engines.builders import build_engine

    with torch.device("meta"):  # random initial weights are not drawn there
        return build_engine(config, torch.device("meta"))


def _unique_weights(networks: "Iterable[nn.Module]") -> "set[nn.Parameter]":
    """Return the distinct weights of networks; shared weights count once."""
    return {weight for network in networks for weight in network.parameters()}


def _parameter_count(*networks: "nn.Module") -> int:
    return sum(weight.numel() for weight in _unique_weights(networks))


def planned_disk(config: Config, split: CohortSplit, engine: "Engine") -> list[DiskNeed]:
    """Return the disk space that a run needs, by folder.

    A checkpoint holds each weight with Adam's two moments, the averaged weights and the image pools.

    Args:
        config: Configuration of the run.
        split: Subjects of training, validation and test.
        engine: Engine of the run, on the meta device.

    Raises:
        UserError: No image has a readable header.
    """
    training = [case for cases in split.train.values() for case in cases]
    slices = sum(_slice_count(cases, config) for cases in split.train.values())
    if engine.paired:
        slices += 2 * _slice_count(_first_scans_of_pairs(split.train.values(), config), config)
    weights = _parameter_count(*engine.networks().values())
    averaged = _parameter_count(*engine.best_generators().values()) if config.method.ema_decay else 0
    pools = 2 * getattr(config.method, "pool_size", 0) * config.preprocess.size**2
    checkpoint = 4 * (3 * weights + averaged + pools)
    return disk_needs(config, training, slices=slices, checkpoint=checkpoint, voxels=_voxel_count(split.test, config))


def _voxel_count(cases: Sequence[Case], config: Config) -> int:
    """Estimate the number of voxels of cases, from one header per contrast; 0 for 2D images."""
    if config.data.source == "images":
        return 0
    by_contrast = ([case for case in cases if case.contrast == contrast] for contrast in config.contrasts)
    return sum(
        len(contrast_cases) * math.prod(_typical_grid(contrast_cases, config)[0])
        for contrast_cases in by_contrast
        if contrast_cases
    )


def _training_bytes(config: Config, engine: "Engine") -> float:
    """Return the bytes of weights, gradients, Adam's moments and the largest activations saved for the gradients."""
    import torch

    weights = _unique_weights(engine.networks().values())
    weight_storages = {weight.untyped_storage()._cdata for weight in weights}
    passes = 0
    for step in range(getattr(config.method, "critic_steps", 1)):  # the generators are updated in one of these steps
        if step:
            engine.on_step_end(torch.tensor(True))
        passes = max(passes, _activation_bytes(config, engine, weight_storages))
    return 4 * 4 * sum(weight.numel() for weight in weights) + passes


def _activation_bytes(config: Config, engine: "Engine", weight_storages: set[int]) -> int:
    """Return the bytes that the engine's next step saves for the gradients, without the storages of the weights."""
    import torch

    saved_storages: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved_storages[storage._cdata] = storage.nbytes()
        return tensor

    images = torch.zeros(config.training.batch_size, 1, config.preprocess.size, config.preprocess.size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        losses = engine.losses(images, images)  # kept alive, so that no storage address is reused
    del losses
    return sum(size for storage, size in saved_storages.items() if storage not in weight_storages)
