"""Fair timing of several implementations: each in a process of its own, in turns, so that a busy machine slows all.

They need processes of their own because allocator settings, thread counts and caches belong to a process. The ratio of
two sides is the median of the ratios within a round, for other load on the machine differs more between rounds.
"""

import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.utils.console import progress
from pipeline.utils.errors import UserError

Work = Callable[[], object]
Clock = Callable[[], float]  # seconds, from whatever time on
ROOT = Path(__file__).parents[1]
DEVICES = ("auto", "cpu", "cuda", "mps")
_work: Work = print  # a side's process: what it measures


@dataclass(frozen=True)
class Side:
    """One of the implementations that are compared: `prepare`, of a module, returns the work in the side's process."""

    prepare: Callable[..., Work]
    options: Mapping[str, Any] = field(default_factory=dict)  # of `prepare`
    units: int = 1  # slices or volumes in one call of the work


@dataclass(frozen=True)
class Timing:
    """The measurements of a side."""

    rounds: tuple[float, ...]  # seconds per unit in each round
    peak_mib: float = 0.0  # the most memory its process ever held: a GPU's where it used one, the host's otherwise
    prepared: float = 0.0  # seconds that `prepare` and the first call took, imports included

    @property
    def seconds(self) -> float:
        """The median over the rounds, per unit."""
        return statistics.median(self.rounds)

    def ratio_to(self, other: "Timing") -> str:
        """Return the median over the rounds of our time over the other's, and the range: below 1 we are faster."""
        ratios = [ours / theirs for ours, theirs in zip(self.rounds, other.rounds, strict=True)]
        return f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


def measure(
    sides: Mapping[str, Side],
    *,
    rounds: int = 7,
    seconds: float = 1.0,
    title: str = "",
    warm_up: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time the sides in turns, after `warm_up` calls each: in a round, a side works for `seconds`, or one call.

    In each round the order moves on by one. The clock is the time that passes, or `processor_seconds`.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for name in sides}
        prepared = {name: pools[name].submit(_prepare, side, warm_up, clock).result() for name, side in sides.items()}
        durations: dict[str, list[float]] = {name: [] for name in sides}
        names = list(sides)
        for _ in progress(range(rounds), total=rounds, title=title, unit="round"):
            for name in names:
                duration = pools[name].submit(_time, seconds, clock).result()
                durations[name].append(duration / sides[name].units)
            names = names[1:] + names[:1]
        peaks = {name: pool.submit(peak_mib).result() for name, pool in pools.items()}
    return {name: Timing(tuple(durations[name]), peaks[name], prepared[name]) for name in sides}


def processor_seconds() -> float:
    """Return what this process and its finished children have had of the processor: other load does not add to it.

    Of several threads it is the sum.
    """
    return sum(os.times()[:4])


def _prepare(side: Side, warm_up: int, clock: Clock) -> float:
    """Prepare a side's work in its process and call it; return the seconds until the end of the first call."""
    global _work
    started = clock()
    _work = side.prepare(**side.options)
    _time(0.0, clock)
    prepared = clock() - started
    for _ in range(warm_up - 1):
        _work()
    return prepared


def _time(seconds: float, clock: Clock) -> float:
    return mean_seconds(_work, seconds, clock)


def mean_seconds(work: Work, seconds: float, clock: Clock = time.perf_counter) -> float:
    """Return the mean seconds of a call, over as many calls as fill the time; on a GPU, until they are done."""
    torch = sys.modules.get("torch")
    synchronise = torch.cuda.synchronize if torch is not None and torch.cuda.is_initialized() else lambda: None
    synchronise()
    calls, started = 0, clock()
    while not calls or clock() - started < seconds:
        work()
        calls += 1
    synchronise()
    return (clock() - started) / calls


def peak_mib() -> float:
    """Return the most memory that this process ever held: on a GPU that it used, by tensors; otherwise on the host.

    `ru_maxrss`, where there is no `/proc`, begins at what the parent had.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


# ── what is printed ───────────────────────────────────────────────────────────────────────────────────────────


def table_rows(timings: Mapping[str, Timing], unit: str) -> list[list[str]]:
    """Return a table row a side: name, time a unit, units a second, ratio to the first side, memory."""
    first = next(iter(timings.values()))
    return [
        [name, duration_text(timing.seconds), f"{1 / timing.seconds:.4g} {unit}s/s", timing.ratio_to(first),
         f"{timing.peak_mib:,.0f} MiB"]
        for name, timing in timings.items()
    ]  # fmt: skip


def duration_text(seconds: float) -> str:
    """Return a duration with three digits and the unit that suits it."""
    unit, factor = ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{seconds * factor:.3g} {unit}"


def machine() -> str:
    """Describe day, processor, cores, GPU and the version of torch, as a line above a table."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    command = " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return f"{date.today()}, {processor}, {cores} cores{gpu}, torch {version('torch')}: {command}"


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────


def benchmark_parser(name: str, description: str | None) -> ArgumentParser:
    """Return a parser for the options of a benchmark, whose help shows its module's description."""
    return ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, formatter_class=RawDescriptionHelpFormatter
    )


def device(text: str) -> str:
    """Return the kind of an available device, for `argparse`; for "auto" the fastest."""
    if text not in DEVICES:
        raise ArgumentTypeError(f"{text!r} is not one of {', '.join(DEVICES)}")
    if text == "cpu":
        return text
    from pipeline.utils.hardware import choose_device  # imports torch, which takes two seconds

    try:
        return choose_device(text).type
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None
