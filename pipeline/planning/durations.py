"""Time that a run will take: its training, from its own records if it has begun, and the work of the CPU beside it."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import voxel_sizes

from pipeline.config.schema import Config
from pipeline.data.case import Case, pairs
from pipeline.data.splits import CohortSplit
from pipeline.runs.folder import RunFolder
from pipeline.tracking.metrics_file import read_metrics
from pipeline.utils.files import human_bytes
from transforms.registration import same_grid

if TYPE_CHECKING:
    from pipeline.engines.base import Engine

GPU_RATE = 10e12  # FLOP/s: a thirtieth of the bf16 peak of an A100 (312e12), half of its float32's
GPU_LAUNCHES = 0.01  # s: the least a step takes, since its hundreds of kernels are launched one by one
ENOUGH_SECONDS = 2.0  # of timed steps on this CPU; at least two are made
MOST_IMAGES = 4  # in a batch of the timed steps; time is taken to grow with the batch size

# Seconds per million vo×els of a prepared scan, measured on one core of a server of 2025, on a pair of IXI's size
# (256×256×150 and 256×256×130 vo×els).
READ_S = 0.15  # to read and prepare a scan, and to resample its partner onto its grid
REGISTER_S = 0.6  # a pair, by the voxels of one of its scans
DRAW_S = 0.2  # to write a translated scan, its mosaic and its volumes for the viewer
OWN_S = 0.24  # to compute and score one system's prediction in our own protocol
PUBLISHED_S: Mapping[str, float] = {"syndiff": 0.03, "selfrdb": 0.21, "reggan": 0.07}
SYSTEMS = 4  # the model and three baselines
LOOKUP_PAIRS = 8  # maximum of training pairs to which the lookup baseline is fitted

Grid = tuple[tuple[int, ...], np.ndarray]  # shape and affine


def time_text(config: Config, engine: "Engine", steps: int, memory: float) -> str:
    """Return the training time of a run as text.

    Args:
        config: Configuration of the run.
        engine: Engine of the run, on the meta device.
        steps: Number of all steps.
        memory: Bytes that training needs; if fewer are free, no step is timed.
    """
    steps_done, step_seconds = measured_pace(RunFolder(config.folder))
    if step_seconds is not None:
        steps_left = max(0, steps - steps_done)
        remaining = (
            f"{duration(steps_left * step_seconds)} for {steps_left:,} steps to come"
            if steps_left
            else f"complete after {steps_done:,} steps"
        )
        lines = [f"training {remaining}, at {seconds(step_seconds)} a step as measured so far"]
    else:
        operations = step_operations(config, engine)
        gpu_seconds = max(GPU_LAUNCHES, operations / GPU_RATE)
        lines = [
            _cpu_text(config, steps, memory),
            f"training on a GPU some {duration(steps * gpu_seconds)}, an estimate: {seconds(gpu_seconds)} a step of "
            f"{operations / 1e9:,.0f} GFLOP, at {GPU_RATE / 1e12:.0f} TFLOP/s and {seconds(GPU_LAUNCHES)} at least",
        ]
    return "\n".join([f"time       {lines[0]}", *(f"           {line}" for line in lines[1:])])


def _cpu_text(config: Config, steps: int, memory: float) -> str:
    from transforms.io.memory import free_memory

    if memory > (free := free_memory()):
        return f"training on this CPU: not timed, for it takes {human_bytes(memory)}, and {human_bytes(free)} are free"
    step_seconds, threads = cpu_pace(config)
    return (
        f"training on this CPU some {duration(steps * step_seconds)}, an estimate: {seconds(step_seconds)} a step with "
        f"{threads} thread{'s' if threads > 1 else ''}, timed just now"
    )


def measured_pace(folder: RunFolder) -> tuple[int, float | None]:
    """Return the number of steps that a run has made, and the median seconds per step between its records.

    Records beside which no checkpoint was saved are of steps that nothing continues from.
    """
    if not folder.has_checkpoint():
        return 0, None
    try:
        records = read_metrics(folder.metrics)[0]
    except OSError:
        return 0, None
    marks = [(record["step"], record["time"]) for record in records if any(key.startswith("train/") for key in record)]
    paces = [
        (later_mark[1] - earlier_mark[1]) / (later_mark[0] - earlier_mark[0])
        for earlier_mark, later_mark in pairwise(marks)
        if later_mark[0] > earlier_mark[0]
    ]
    made = max((record["step"] for record in records), default=0)  # the last validation's may be later than any loss
    return int(made), statistics.median(paces) if paces else None


def step_operations(config: Config, engine: "Engine") -> float:
    """Return the floating-point operations of a step, averaged over the steps between two generator updates.

    Args:
        config: Configuration of the run.
        engine: Engine of the run, on the meta device.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    period, side = _steps_per_generator_update(config), config.preprocess.size
    images = torch.zeros(config.training.batch_size, 1, side, side, device="meta")
    with FlopCounterMode(display=False) as counter:
        for _ in range(period):
            for losses in engine.losses(images, images).values():
                torch.stack([*losses.values()]).sum().backward()
            if period > 1:
                engine.on_step_end(torch.tensor(True))
    return counter.get_total_flops() / period


def cpu_pace(config: Config) -> tuple[float, int]:
    """Time a few steps of a throw-away engine on this CPU; return the seconds per step and the number of threads."""
    import torch

    from pipeline.engines.builders import build_engine
    from pipeline.utils.hardware import set_up

    # Use bf16 for fp16, which is for GPUs only, and a small batch.
    if config.training.precision == "fp16":
        config = config.model_copy(update={"training": config.training.model_copy(update={"precision": "bf16"})})
    batch, side = min(config.training.batch_size, MOST_IMAGES), config.preprocess.size
    thread_count = torch.get_num_threads()

    # Time steps of an engine whose random numbers leave the generators as they are.
    set_up(config.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            engine = build_engine(config, torch.device("cpu"))
            images = torch.rand(2, batch, 1, side, side) * 2 - 1
            paces, began = [], time.perf_counter()
            while len(paces) < 2 or time.perf_counter() - began < ENOUGH_SECONDS:
                started = time.perf_counter()
                for _ in range(_steps_per_generator_update(config)):
                    engine.step(*images)
                paces.append((time.perf_counter() - started) / _steps_per_generator_update(config))
        step_seconds = statistics.median(paces[1:])  # the first allocates memory and takes up to twice as long
        return step_seconds * config.training.batch_size / batch, torch.get_num_threads()
    finally:
        torch.set_num_threads(thread_count)


def _steps_per_generator_update(config: Config) -> int:
    """Return the number of steps from one generator update to the next."""
    return getattr(config.method, "critic_steps", 1)


def seconds(count: float) -> str:
    """Return the seconds of a step as text: 0.01234 -> "12 ms"."""
    return f"{count:.2f} s" if count >= 1 else f"{1000 * count:.0f} ms"


def duration(count: float) -> str:
    """Return seconds as text with two or three digits: "4 minutes", "5.3 hours", "115 hours"."""
    if count < 5400:
        minutes = max(1, round(count / 60))
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{count / 3600:.1f} hours" if count < 36_000 else f"{count / 3600:,.0f} hours"


def cpu_work_text(
    config: Config, split: CohortSplit, grid_of: Callable[[Sequence[Case]], Grid], *, paired: bool = False
) -> str:
    """Return a line with the minutes to register the pairs and to evaluate the test subjects.

    Args:
        config: Configuration of the run.
        split: Subjects of training, validation and test.
        grid_of: Function of scans that returns the grid of the first one with a readable header.
        paired: Whether the method learns from registered pairs, so that every training pair is registered.
    """
    subsets = {
        "training": [case for cases in split.train.values() for case in cases],
        "validation": split.validation,
        "test": split.test,
    }

    # Count the pairs to register and the scans to evaluate.
    pairs_by_subset = {name: pairs(cases, config.contrasts) for name, cases in subsets.items()}
    test, held_out = pairs_by_subset["test"] or split.test, [*pairs_by_subset["validation"], *pairs_by_subset["test"]]
    processes = config.preprocess.processes or os.cpu_count() or 1
    if config.data.source == "images" or not (test or held_out):
        voxels, registrations = float(config.preprocess.size**2), 0
    else:
        voxels = _prepared_voxels(config, grid_of([*split.test, *split.validation]))
        needs_registration = config.evaluation.register_pairs and held_out and not _on_one_grid(held_out, grid_of)
        training_pairs = len(pairs_by_subset["training"])
        registrations = len(held_out) + (training_pairs if paired else min(LOOKUP_PAIRS, training_pairs))
        registrations = registrations if needs_registration else 0

    # Multiply by the measured seconds, and divide among the processes.
    million = voxels / 1e6
    scored = SYSTEMS * (OWN_S + sum(PUBLISHED_S[name] for name in config.evaluation.protocols)) + DRAW_S + READ_S
    scans = len(test) * (2 if pairs_by_subset["test"] else 1)
    registration_seconds = registrations * (REGISTER_S + 2 * READ_S) * million / min(processes, max(1, registrations))
    evaluation_seconds = scans * scored * million / min(processes, max(1, scans))
    return (
        f"CPU work   {_minutes(registration_seconds)} to register {registrations:,} pairs and "
        f"{_minutes(evaluation_seconds)} to evaluate {len(test):,} test subjects, in {processes} processes, "
        "besides the networks (estimate)"
    )


def _prepared_voxels(config: Config, grid: Grid) -> float:
    """Return the number of voxels of a scan after resampling."""
    (shape, affine), spacing = grid, config.preprocess.spacing_mm
    if spacing is None:
        return float(prod(shape[:3]))
    return prod(shape[:3]) * float(prod(voxel_sizes(affine))) / (spacing.in_plane**2 * spacing.through_plane)


def _on_one_grid(case_pairs: Sequence[tuple[Case, Case]], grid_of: Callable[[Sequence[Case]], Grid]) -> bool:
    """Whether the first pair's two scans share a grid; all other pairs are assumed to be alike."""
    first, second = (grid_of([pair[side] for pair in case_pairs]) for side in (0, 1))
    return same_grid(first[0], first[1], second[0], second[1])


def _minutes(seconds: float) -> str:
    return "under a minute" if seconds < 60 else f"some {round(seconds / 60):,} min"
