"""How long a run will train: from its own clock where it has begun, else an estimate."""

import statistics
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.config.schema import Config
from pipeline.runs.folder import RunFolder
from pipeline.tracking.metrics_file import read_metrics
from pipeline.utils.files import human_bytes

if TYPE_CHECKING:
    from pipeline.engines.protocol import Engine

GPU_RATE = 10e12  # FLOP/s: a thirtieth of the bf16 peak of an A100 (312e12), half of its float32's
GPU_LAUNCHES = 0.01  # s: no step is quicker, for its hundreds of kernels are launched one by one
ENOUGH_SECONDS = 2.0  # of steps on this CPU; at least two are made
MOST_IMAGES = 4  # in a batch of these steps; a larger one takes at most so many times as long


def time_text(config: Config, engine: "Engine", steps: int, memory: float) -> str:
    """Return, as text, how long a run's steps will take.

    Args:
        config: Of the run.
        engine: The run's, on the meta device.
        steps: All of them.
        memory: Bytes that training takes; where fewer are free, nothing is measured.
    """
    done, own = own_pace(RunFolder(config.folder))
    if own is not None:
        left = max(0, steps - done)
        remaining = f"{duration(left * own)} for {left:,} steps to come" if left else f"complete after {done:,} steps"
        lines = [f"training {remaining}, at {seconds(own)} a step as measured so far"]
    else:
        operations = step_operations(config, engine)
        gpu = max(GPU_LAUNCHES, operations / GPU_RATE)
        lines = [
            _cpu_text(config, steps, memory),
            f"training on a GPU some {duration(steps * gpu)}, an estimate: {seconds(gpu)} a step of "
            f"{operations / 1e9:,.0f} GFLOP, at {GPU_RATE / 1e12:.0f} TFLOP/s and {seconds(GPU_LAUNCHES)} at least",
        ]
    return "\n".join([f"time       {lines[0]}", *(f"           {line}" for line in lines[1:])])


def _cpu_text(config: Config, steps: int, memory: float) -> str:
    from transforms.io.memory import free_memory

    if memory > (free := free_memory()):
        return f"training on this CPU: not timed, for it takes {human_bytes(memory)}, and {human_bytes(free)} are free"
    each, threads = cpu_pace(config)
    return (
        f"training on this CPU some {duration(steps * each)}, an estimate: {seconds(each)} a step with {threads} "
        f"thread{'s' if threads > 1 else ''}, timed just now"
    )


def own_pace(folder: RunFolder) -> tuple[int, float | None]:
    """Return how many steps a run has made, and the seconds that each took: between its records, the median."""
    try:
        records = read_metrics(folder.metrics)[0]
    except OSError:
        return 0, None
    marks = [(record["step"], record["time"]) for record in records if any(key.startswith("train/") for key in record)]
    paces = [
        (after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(marks) if after[0] > before[0]
    ]
    return int(max((step for step, _ in marks), default=0)), statistics.median(paces) if paces else None


def step_operations(config: Config, engine: "Engine") -> float:
    """Return the floating-point operations of a step, the mean over a rhythm of critics and generators.

    Args:
        config: Of the run.
        engine: The run's, on the meta device.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    rhythm, side = _rhythm(config), config.preprocess.size
    images = torch.zeros(config.training.batch_size, 1, side, side, device="meta")
    with FlopCounterMode(display=False) as counter:
        for _ in range(rhythm):
            for losses in engine.losses(images, images).values():
                torch.stack([*losses.values()]).sum().backward()
            if rhythm > 1:
                engine.on_step_end(torch.tensor(True))
    return counter.get_total_flops() / rhythm


def cpu_pace(config: Config) -> tuple[float, int]:
    """Return the seconds that a step takes on this CPU, of some that are made and forgotten, and the threads it had."""
    import torch

    from pipeline.engines.registry import build_engine
    from pipeline.utils.hardware import set_up

    if config.training.precision == "fp16":  # for GPUs alone
        config = config.model_copy(update={"training": config.training.model_copy(update={"precision": "bf16"})})
    batch, side, before = min(config.training.batch_size, MOST_IMAGES), config.preprocess.size, torch.get_num_threads()
    set_up(config.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            engine = build_engine(config, torch.device("cpu"))
            images = torch.rand(2, batch, 1, side, side) * 2 - 1
            paces, began = [], time.perf_counter()
            while len(paces) < 2 or time.perf_counter() - began < ENOUGH_SECONDS:
                started = time.perf_counter()
                for _ in range(_rhythm(config)):
                    engine.step(*images)
                paces.append((time.perf_counter() - started) / _rhythm(config))
        each = statistics.median(paces[1:])  # the first, which allocates and plans, takes up to twice as long
        return each * config.training.batch_size / batch, torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _rhythm(config: Config) -> int:
    """Return after how many steps the generators move again."""
    return getattr(config.method, "critic_steps", 1)


def seconds(count: float) -> str:
    """Return a step's seconds as text: 0.01234 -> "12 ms"."""
    return f"{count:.2f} s" if count >= 1 else f"{1000 * count:.0f} ms"


def duration(count: float) -> str:
    """Return seconds as text, of two or three digits: "4 minutes", "5.3 hours", "115 hours"."""
    if count < 5400:
        minutes = max(1, round(count / 60))
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{count / 3600:.1f} hours" if count < 36_000 else f"{count / 3600:,.0f} hours"
