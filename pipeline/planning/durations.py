"""Time that training will take: from the run's own records if it has begun, or of a few steps made to see."""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.runs.folder import RunFolder
from pipeline.tracking.metrics_file import read_metrics
from pipeline.utils.files import human_bytes

if TYPE_CHECKING:
    from pipeline.engines.base import Engine

ENOUGH_SECONDS = 2.0  # of timed steps; at least two are made
MOST_IMAGES = 4  # in a batch of the timed steps; time is taken to grow with the batch size


def time_text(
    folder: RunFolder, *, steps: int, memory: float, free: float, pace: Callable[[], tuple[float, str]]
) -> str:
    """Return the training time of a run of so many steps as text.

    `memory` and `free` are the bytes that training needs and those that the device has: if it needs more, no step is
    timed. `pace` returns the seconds per step on this machine, and the device's name.
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
