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
Name = TypeVar("Name")  # of the sides that take turns
Taken = TypeVar("Taken")  # a measurement


@dataclass(frozen=True)
class Side:
    """One of the implementations that are compared.

    Attributes:
        prepare: Function that returns the work to time, a function without arguments. It is called in the side's
            process, which imports it, so it must be defined in a module.
        options: Keyword arguments of `prepare`.
        units: Number of counted units (slices, volumes) in one call of the work.
    """

    prepare: Callable[..., Work]
    options: Mapping[str, object] = field(default_factory=dict)
    units: int = 1


@dataclass(frozen=True)
class Timing:
    """The measurements of a side.

    Attributes:
        rounds: Seconds per unit in each round.
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
        return statistics.median(ours / theirs for ours, theirs in zip(self.rounds, other.rounds, strict=True))


def measure(
    sides: Mapping[str, Side], *, rounds: int = 7, seconds: float = 1.0, title: str = "", warm_up: int = 2
) -> dict[str, Timing]:
    """Time the sides in turns, one at a time.

    Args:
        sides: Sides by name; in each round the order moves on by one.
        rounds: Number of rounds.
        seconds: Minimal time that a side works in a round; it makes at least one call.
        title: Title of the progress bar.
        warm_up: Number of calls before the first round.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        connections: dict[str, Connection] = {}
        for name, side in sides.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, side, warm_up), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            connections[name] = stack.enter_context(closing(ours))
        prepared = {
            name: _ask(connection, "prepare") for name, connection in connections.items()
        }  # one after the other, too
        figures = in_turns(
            list(sides), rounds, lambda name: _ask(connections[name], seconds) / sides[name].units, title
        )
        peaks = {name: _ask(connection, "peak") for name, connection in connections.items()}
    return {name: Timing(tuple(figures[name]), peaks[name], prepared[name]) for name in sides}


def in_turns(
    names: Sequence[Name], rounds: int, take: Callable[[Name], Taken], title: str = ""
) -> dict[Name, list[Taken]]:
    """Return the results of `take(name)` in each round, by name; in each round the order moves on by one."""
    figures: dict[Name, list[Taken]] = {name: [] for name in names}
    for turn in progress(range(rounds), total=rounds, title=title, unit="round"):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            figures[name].append(take(name))
    return figures


def _ask(connection: Connection, request: object) -> float:
    connection.send(request)
    reply = connection.recv()
    if isinstance(reply, str):
        raise RuntimeError(reply)
    return reply


def _serve(connection: Connection, side: Side, warm_up: int) -> None:
    """Answer requests until the other end closes: "prepare", seconds to work for, "peak"."""
    work: Work | None = None
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            if request == "prepare":
                started = time.perf_counter()
                work = side.prepare(**side.options)
                work()
                _synchronise()
                reply = time.perf_counter() - started
                for _ in range(warm_up - 1):
                    work()
            elif request == "peak":
                reply = peak_mib()
            else:
                reply = _timed(work, request)
        except Exception as error:  # sent to the asking process, which raises it
            reply = f"{type(error).__name__}: {error}"
        connection.send(reply)


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
    """Return the mean seconds of a call, over as many calls as fill the time."""
    _synchronise()
    calls, started = 0, time.perf_counter()
    while not calls or time.perf_counter() - started < seconds:
        work()
        calls += 1
    _synchronise()
    return (time.perf_counter() - started) / calls


def _synchronise() -> None:
    """Wait until the GPU, if one is used, has finished."""
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
