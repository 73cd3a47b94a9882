"""`--dry-run`: the plan of a run, computed without writing anything."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.schema import Config
from pipeline.data.case import Case
from pipeline.data.cropped_heads import read_fingerprints, warn_of_cropped_heads
from pipeline.data.splits import CohortSplit
from pipeline.data_builders import (
    find_regions,
    planned_cases,
    preprocess_settings,
    schedule_of,
    slice_neighbours,
    split_cases,
    warn_of_names,
)
from pipeline.planning.cohort import CohortEstimates, first_scans, split_table, subject_lists, subject_table
from pipeline.planning.durations import step_pace, time_text
from pipeline.planning.resources import (
    BYTES_PER_PIXEL,
    DiskNeed,
    cache_files,
    disk_needs,
    disk_text,
    parameter_count,
    training_bytes,
    warn_of_full_disks,
)
from pipeline.run_config import open_run_folder
from pipeline.runs.contrasts import warn_of_headers
from pipeline.runs.folder import RunFolder
from pipeline.training.initial_weights import read_initial_weights
from pipeline.training.resume import require_schedule, start_text
from pipeline.training.schedule import warn_of_lost_rate
from pipeline.utils.console import echo, table, warn
from pipeline.utils.errors import UserError
from pipeline.utils.files import human_bytes

if TYPE_CHECKING:
    import torch

    from pipeline.engines.base import Engine


def print_dry_run(config: Config, *, verbose: bool = False) -> None:
    """Print subjects and slices per split and contrast, networks, steps, and estimated time, disk and memory.

    With `verbose`, every subject is named.

    Raises:
        UserError: Whatever the run itself would refuse: no data, too few subjects, a folder of another run.
    """
    # Find the cases and split them, with the run's own checks.
    folder = open_run_folder(config)  # refuses a folder of another run, and makes none
    require_schedule(folder, (config.training.epochs, config.training.decay_epochs))
    engine, settings, contrasts = meta_engine(config), config.model_dump(mode="json"), config.contrasts
    start = read_initial_weights(config.training.start_from, folder, settings, partial(meta_engine, config))
    cases = planned_cases(config)
    split = split_cases(config, cases, folder.file_in_use(folder.split))
    warn_of_names(config, cases, split, paired=engine.paired)
    if config.data.source != "phantom":  # whose regions are made
        find_regions(config, split.test)
    preprocess, native_spacing = config.preprocess, config.preprocess.spacing_mm is None
    if config.data.source not in ("phantom", "images"):
        options = {"paired": engine.paired, "native_spacing": native_spacing}
        warn_of_headers(split, preprocess.axis, preprocess.coverage_mm, **options)
        chain = preprocess_settings(config)
        warn_of_cropped_heads(read_fingerprints([side[0] for side in split.train.values()], chain), chain)

    # Estimate slices, steps, disk space and memory.
    estimates = cohort_estimates(config)
    slices = [estimates.slices(side) for side in split.train.values()]
    pairs = estimates.slices(_paired_scans(split, contrasts, engine.paired))
    schedule = schedule_of(config.training, pairs if engine.paired else max(slices))
    batch = (config.training.batch_size, slice_neighbours(config).channels, preprocess.size, preprocess.size)
    needs = planned_disk(config, split, engine)
    memory = training_bytes(engine, batch, pairs=bool(split.pairs))

    # Print subjects, slices and networks.
    echo(f"{config.name}: {config.data.source} data → {config.folder}\n")
    if start is not None:
        echo(f"weights    of {start_text(start.record)}\n")
    echo(split_table(split, contrasts, estimates, paired=engine.paired))
    echo(f"\n{(subject_table if verbose else subject_lists)(split, contrasts)}\n")
    parameters = [(name, f"{parameter_count(network):,}") for name, network in engine.networks().items()]
    echo(f"{table(['network', 'parameters'], parameters)}\n")

    # Print steps, time, disk space, memory and warnings.
    steps = f"{schedule.steps_per_epoch:,} an epoch × {schedule.epochs:,} epochs = {schedule.steps:,}"
    echo(f"steps      {steps}, batch {config.training.batch_size}")
    device = _planned_device(config)
    pace = partial(step_pace, partial(_timed_engine, config, device), batch, config.threads, 4 if split.pairs else 2)
    echo(time_text(folder, steps=schedule.steps, memory=memory, free=_free_memory(device), pace=pace))
    echo(disk_text(needs))
    kept = 2 * pairs + (0 if engine.paired else sum(slices))
    resident = f", and {human_bytes(kept * preprocess.size**2 * BYTES_PER_PIXEL)} of slices"
    resident = resident if config.training.slices_on_device else ""
    echo(f"memory     {human_bytes(memory)}{resident} while training, besides the libraries' own")
    warn_of_lost_rate(schedule)
    warn_of_full_disks(needs)
    echo("dry run: nothing was written")


def _planned_device(config: Config) -> "torch.device":
    """Return the run's device; the CPU, with a warning, where this machine would refuse a run meant for another one."""
    import torch

    from pipeline.utils.hardware import choose_device, require_able

    training = config.training
    try:
        device = choose_device(config.device)
        require_able(device, precision=training.precision, cuda_graph=training.cuda_graph)
    except UserError as error:
        warn(f"warning: {error}")
        return torch.device("cpu")
    return device


def _free_memory(device: "torch.device") -> int:
    """Return the bytes that are free for training on a device."""
    import torch

    from transforms.io.nifti_checks import free_memory

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def warn_before_the_work(config: Config, cases: Sequence[Case], saved_split: Path | None) -> None:
    """Warn before training if the run's output will not fit its disks; `saved_split` is of a resumed run."""
    with suppress(UserError):  # the run itself reports problems of the data
        warn_of_full_disks(planned_disk(config, split_cases(config, cases, saved_split), meta_engine(config)))


def planned_disk(config: Config, split: CohortSplit, engine: "Engine") -> list[DiskNeed]:
    """Return the disk space that a run needs, by folder.

    A checkpoint holds each weight with Adam's two moments, the averaged weights and the image pools. The engine may be
    on the meta device.

    Raises:
        UserError: No image has a readable header.
    """
    estimates, preprocess = cohort_estimates(config), config.preprocess
    training = [case for side in split.train.values() for case in side]
    slices = sum(estimates.slices(side) for side in split.train.values())
    slices += 2 * estimates.slices(_paired_scans(split, config.contrasts, engine.paired))
    averaged = parameter_count(*engine.evaluated_generators().values()) if config.method.ema_decay else 0
    pools = sum(pool.size for pool in getattr(engine, "pools", {}).values()) * preprocess.size**2
    return disk_needs(
        RunFolder(config.folder),
        preprocess.store,
        cache_files(training, preprocess.store, preprocess_settings(config), preprocess.min_foreground),
        slice_bytes=slices * preprocess.size**2 * BYTES_PER_PIXEL,
        checkpoint=4 * (3 * parameter_count(*engine.networks().values()) + averaged + pools),
        voxels=estimates.voxels(split.test) if config.evaluation.translate else None,
    )


def cohort_estimates(config: Config) -> CohortEstimates:
    """Return estimates of slices and voxels; all volumes of a phantom have one grid, before they exist."""
    data, settings = config.data, preprocess_settings(config)
    grid = None
    if data.source == "phantom":
        from pipeline.data.sources import phantom_anatomy

        grid = phantom_anatomy.grid(data.spacing_mm)
    return CohortEstimates(settings.axis, settings.spacing_mm, data.source == "images", grid)


def _paired_scans(split: CohortSplit, contrasts: tuple[str, str], paired: bool) -> list[Case]:
    """Return the first scan of each pair that is trained on, on its grid: all pairs, or those beside others."""
    return first_scans([case for side in split.train.values() for case in side] if paired else split.pairs, contrasts)


def meta_engine(config: Config) -> "Engine":
    """Return the run's engine on torch's meta device, which allocates nothing and draws no weights."""
    import torch

    from pipeline.engines.builders import build_engine

    with torch.device("meta"):
        return build_engine(config, torch.device("meta"))


def _timed_engine(config: Config, device: "torch.device") -> "Engine":
    """Return the run's engine on a device; on a CPU in bf16 for fp16, which is for GPUs only."""
    from pipeline.engines.builders import build_engine
    from pipeline.utils.hardware import tune

    tune(device, tf32=config.training.tf32)
    if config.training.precision == "fp16" and device.type == "cpu":
        config = config.model_copy(update={"training": config.training.model_copy(update={"precision": "bf16"})})
    return build_engine(config, device)
