"""Time that a run will take: its training, from its own records if it has begun, and the work of the CPU beside it."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.data.case import Case, pairs
from pipeline.data.splits import CohortSplit
from pipeline.planning.cohort import CohortEstimates, Contrasts
from pipeline.runs.folder import RunFolder
from pipeline.tracking.metrics_file import read_metrics
from pipeline.utils.files import human_bytes
from transforms.registration import same_grid

if TYPE_CHECKING:
    from pipeline.engines.base import Engine

ENOUGH_SECONDS = 2.0  # of timed steps; at least two are made
MOST_IMAGES = 4  # in a batch of the timed steps; time is taken to grow with the batch size

# Seconds per million voxels of a prepared scan, measured on one core of a server of 2025, on a pair of IXI's size
# (256×256×150 and 256×256×130 voxels).
READ_S = 0.15  # to read and prepare a scan, and to resample its partner onto its grid
REGISTER_S = 0.6  # a pair, by the voxels of one of its scans
DRAW_S = 0.2  # to write a translated scan, its mosaic and its volumes for the viewer
OWN_S = 0.24  # to compute and score one system's prediction in our own protocol
PUBLISHED_S: Mapping[str, float] = {"syndiff": 0.03, "selfrdb": 0.21, "reggan": 0.07}
SYSTEMS = 5  # the model and four baselines
LOOKUP_PAIRS = 8  # maximum of training pairs to which the lookup baseline is fitted


def time_text(
    folder: RunFolder, *, steps: int, memory: float, free: float, pace: Callable[[], tuple[float, str]]
) -> str:
    """Return the training time of a run as text.

    Args:
        folder: Folder of the run.
        steps: Number of all steps.
        memory: Bytes that training needs.
        free: Bytes of the device's memory that are free; if training needs more, no step is timed.
        pace: Function that returns the seconds per step on this machine, and the device's name.
    """
    steps_done, step_seconds = measured_pace(folder)
    if step_seconds is not None:
        steps_left = max(0, steps - steps_done)
        remaining = (
            f"{duration(steps_left * step_seconds)} for {steps_left:,} steps to come"
            if steps_left
            else f"complete after {steps_done:,} steps"
        )
        return f"time       training {remaining}, at {seconds(step_seconds)} a step as measured so far"
    if memory > free:
        return f"time       training: not timed, for it takes {human_bytes(memory)}, and {human_bytes(free)} are free"
    step_seconds, device = pace()
    length = f"some {duration(steps * step_seconds)}, an estimate: {seconds(step_seconds)} a step"
    return f"time       training on {device} {length}, timed just now"


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
    step = max((record["step"] for record in records), default=0)  # the last validation's may be later than any loss
    return int(step), statistics.median(paces) if paces else None


def step_pace(
    build: "Callable[[], Engine]", batch: Sequence[int], threads: int | None, batches: int = 2
) -> tuple[float, str]:
    """Time a few steps of a throw-away engine; return the seconds per step and the name of its device.

    Args:
        build: Function that builds the engine.
        batch: Shape of a batch of one contrast.
        threads: Number of threads; None for all cores.
        batches: Number of batches in a step: one of each contrast, and two of pairs where there are any beside them.
    """
    import torch

    from pipeline.utils.hardware import set_up

    images_per_step, thread_count = min(batch[0], MOST_IMAGES), torch.get_num_threads()
    set_up(threads)
    try:
        with torch.random.fork_rng():  # its random numbers leave the generators as they are
            engine = build()
            images = torch.rand(batches, images_per_step, *batch[1:], device=engine.device) * 2 - 1
            paces: list[float] = []
            first_start = time.perf_counter()
            while len(paces) < 2 or time.perf_counter() - first_start < ENOUGH_SECONDS:
                started = time.perf_counter()
                for _ in range(engine.critic_steps):
                    losses = engine.step(*images)
                next(iter(losses.values())).item()  # waits for a GPU
                paces.append((time.perf_counter() - started) / engine.critic_steps)
        step_seconds = statistics.median(paces[1:])  # the first allocates memory and takes up to twice as long
        device = f"this CPU with {torch.get_num_threads()} threads"
        if engine.device.type != "cpu":
            device = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else "this GPU"
        return step_seconds * batch[0] / images_per_step, device
    finally:
        torch.set_num_threads(thread_count)


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
    split: CohortSplit,
    contrasts: Contrasts,
    estimates: CohortEstimates,
    *,
    protocols: Sequence[str],
    register: bool,
    processes: int | None,
    paired: bool = False,
) -> str:
    """Return a line with the minutes to register the pairs and to evaluate the test subjects.

    Pairs on different grids are registered if `register`, all training pairs among them if the method learns from pairs
    (`paired`). `processes` is None for one per core.
    """
    # Count the pairs to register and the scans to evaluate.
    training_pairs = len(pairs([case for side in split.train.values() for case in side], contrasts))
    test_pairs = pairs(split.test, contrasts)
    held_out = [*pairs(split.validation, contrasts), *test_pairs]
    test_subjects = len(test_pairs) or len(split.test)
    million = estimates.prepared_voxels([*split.test, *split.validation]) / 1e6
    is_registered = register and held_out and not estimates.pictures and not _on_one_grid(held_out, estimates)
    fitted = training_pairs if paired else min(LOOKUP_PAIRS, training_pairs)
    registrations = len(held_out) + fitted if is_registered else 0

    # Multiply by the measured seconds, and divide among the processes.
    workers = processes or os.cpu_count() or 1
    scan_seconds = SYSTEMS * (OWN_S + sum(PUBLISHED_S[name] for name in protocols)) + DRAW_S + READ_S
    scans = 2 * len(test_pairs) or len(split.test)
    registration_seconds = registrations * (REGISTER_S + 2 * READ_S) * million / min(workers, max(1, registrations))
    evaluation_seconds = scans * scan_seconds * million / min(workers, max(1, scans))
    return (
        f"CPU work   {_minutes(registration_seconds)} to register {registrations:,} pairs and "
        f"{_minutes(evaluation_seconds)} to evaluate {test_subjects:,} test subjects, in {workers} processes, "
        "besides the networks (estimate)"
    )


def _on_one_grid(case_pairs: Sequence[tuple[Case, Case]], estimates: CohortEstimates) -> bool:
    """Whether the first pair's two scans share a grid; all other pairs are assumed to be alike."""
    first, second = (estimates.grid_of([pair[side] for pair in case_pairs]) for side in (0, 1))
    return same_grid(*first, *second)


def _minutes(seconds: float) -> str:
    return "under a minute" if seconds < 60 else f"some {round(seconds / 60):,} min"
