"""Timing two ways of one thing fairly: each in a process of its own, in turns, so that a busy machine slows both.

A process each, for the allocator's settings, the number of threads and what is cached belong to a process. Ratios are
taken within a round and their median is told: what else the machine does changes from round to round, not within one.
"""

import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from pipeline.utils.console import echo, progress, table

Work = Callable[[], object]
Name = TypeVar("Name")  # of what takes turns
Taken = TypeVar("Taken")  # a figure, or several


@dataclass(frozen=True)
class Side:
    """One way of doing the thing.

    Attributes:
        prepare: Of a module, so that the side's process can import it: called there with `options`, it returns the
            work, a function without arguments, that is then timed.
        options: Its arguments, by name.
        units: How many of what is counted (slices, volumes) one call of the work does.
    """

    prepare: Callable[..., Work]
    options: Mapping[str, object] = field(default_factory=dict)
    units: int = 1


@dataclass(frozen=True)
class Timing:
    """What was measured of a side.

    Attributes:
        rounds: Seconds a unit, one figure a round.
        peak_mib: The most memory its process ever held, in MiB: a GPU's where it used one, the host's otherwise.
        prepared: Seconds that `prepare` and the first call took, imports included.
    """

    rounds: tuple[float, ...]
    peak_mib: float
    prepared: float

    @property
    def seconds(self) -> float:
        """The median over the rounds, per unit."""
        return statistics.median(self.rounds)

    def ratio_to(self, other: "Timing") -> float:
        """Return the median over the rounds of our time over the other's: below 1 we are faster."""
        return statistics.median(own / theirs for own, theirs in zip(self.rounds, other.rounds, strict=True))


def measure(
    sides: Mapping[str, Side], *, rounds: int = 7, seconds: float = 1.0, title: str = "", warm_up: int = 2
) -> dict[str, Timing]:
    """Time the sides in turns, one at a time.

    Args:
        sides: By name; in each round the order moves on by one.
        rounds: How many figures are taken of each.
        seconds: How long a side works in a round at the least; it makes at least one call.
        title: Of the progress bar.
        warm_up: Calls before the first round.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        lines: dict[str, Connection] = {}
        for name, side in sides.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, side, warm_up), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            lines[name] = stack.enter_context(closing(ours))
        prepared = {name: _ask(line, "prepare") for name, line in lines.items()}  # one after the other, too
        taken = in_turns(list(sides), rounds, lambda name: _ask(lines[name], seconds) / sides[name].units, title)
        peaks = {name: _ask(line, "peak") for name, line in lines.items()}
    return {name: Timing(tuple(taken[name]), peaks[name], prepared[name]) for name in sides}


def in_turns(
    names: Sequence[Name], rounds: int, take: Callable[[Name], Taken], title: str = ""
) -> dict[Name, list[Taken]]:
    """Return what `take` returned of each name, a figure a round; in each round the order moves on by one."""
    taken: dict[Name, list[Taken]] = {name: [] for name in names}
    for turn in progress(range(rounds), total=rounds, title=title, unit="round"):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            taken[name].append(take(name))
    return taken


def _ask(line: Connection, request: object) -> float:
    line.send(request)
    answer = line.recv()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _serve(line: Connection, side: Side, warm_up: int) -> None:
    """Answer requests until the other end closes: "prepare", seconds to work for, "peak"."""
    work: Work | None = None
    while True:
        try:
            request = line.recv()
        except EOFError:
            return
        try:
            if request == "prepare":
                started = time.perf_counter()
                work = side.prepare(**side.options)
                work()
                _settle()
                answer = time.perf_counter() - started
                for _ in range(warm_up - 1):
                    work()
            elif request == "peak":
                answer = peak_mib()
            else:
                answer = _timed(work, request)
        except Exception as error:  # told to the process that asked, which raises it
            answer = f"{type(error).__name__}: {error}"
        line.send(answer)


def peak_mib() -> float:
    """Return the most memory that this process ever held: on a GPU that it used, by tensors; otherwise on the host.

    `ru_maxrss`, where there is no `/proc`, begins at what the parent had.
    """
    torch = _torch_on_gpu()
    if torch is not None:
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _timed(work: Work, seconds: float) -> float:
    """Return the seconds a call takes, over as many as fill the time."""
    _settle()
    calls, started = 0, time.perf_counter()
    while not calls or time.perf_counter() - started < seconds:
        work()
        calls += 1
    _settle()
    return (time.perf_counter() - started) / calls


def _settle() -> None:
    """Wait for what a GPU still has to do."""
    torch = _torch_on_gpu()
    if torch is not None:
        torch.cuda.synchronize()


def _torch_on_gpu() -> ModuleType | None:
    """Return torch where this process has imported it and used a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def table_rows(timings: Mapping[str, Timing], unit: str, yardstick: str | None = None) -> list[list[str]]:
    """Return a table row a side: name, time a unit, units a second, ratio to the yardstick (the first), memory."""
    reference = timings[yardstick or next(iter(timings))]
    return [
        [
            name,
            duration_text(timing.seconds),
            f"{1 / timing.seconds:.4g} {unit}s/s",
            f"{timing.ratio_to(reference):.3f}",
            f"{timing.peak_mib:,.0f} MiB",
        ]
        for name, timing in timings.items()
    ]


def show(timings: Mapping[str, Timing], unit: str, yardstick: str | None = None) -> None:
    """Print the sides' table."""
    echo(table(["", f"time a {unit}", "rate", "ratio", "peak memory"], table_rows(timings, unit, yardstick)))


def duration_text(seconds: float) -> str:
    """Return a duration with three digits and the unit that suits it."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError("unreachable")


def machine() -> str:
    """Describe day, processor, cores, GPU and the version of torch, as a line above a table."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    command = " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return f"{date.today()}, {_processor()}, {cores} cores{gpu}, torch {version('torch')}: {command}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
