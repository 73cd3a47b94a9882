"""A GPU's training steps in one process and nine minutes: are they right, how long do they take, do they learn.

python -m benchmarks.cuda --output cuda.md
python -m benchmarks.cuda --device cpu --smoke       # small, on a CPU: whether the script runs

Needs torch, NumPy, MONAI, pydantic, PyYAML and tqdm, and none of what reads, registers or tracks scans. Each section
has its seconds; what they do not reach is named in the table, which is written to `--output` after every row. Other
than in `benchmarks.step` all sides share a process, one after the other: on a GPU of one's own they need no turns.
"""

import gc
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from benchmarks.step import LAYOUTS, ROOF_IMAGES, config_of, convolution, flop_of_step, prepare, roof_flop
from benchmarks.timing import benchmark_parser, device, duration_text, machine, mean_seconds, peak_mib
from pipeline.utils.console import cli_main, echo
from pipeline.utils.errors import EXIT_DONE, EXIT_PARTLY_DONE, UserError
from pipeline.utils.files import atomic_text

if TYPE_CHECKING:  # what takes seconds to import is not needed to answer --help
    from torch import Tensor

    from pipeline.engines.base import Engine

Job = Callable[[], list[str]]  # returns the cells of a row behind its name
LIMIT_S = 530  # of the whole command, which then ends wherever it is
WARM_UP = 6  # calls: a step is recorded in the fourth, and a GPU's algorithms are chosen
ROUNDS = 3
flop_once = cache(flop_of_step)  # which takes a second or two
TOLERANCES = {"float32": 5e-3, "tf32": 0.02, "bf16": 0.05}  # of losses, relative; a CPU's convolutions are other sums


@dataclass(frozen=True)
class Plan:
    """What is measured: rows of `benchmarks.step`, batches, seconds of each section and round, the roof's images."""

    rows: tuple[str, ...] = ("unet-256", "resnet-256")
    batches: tuple[int, ...] = (1, 4, 16)
    checked: tuple[str, ...] = ("unet-128", "resnet-128")
    trained: str = "resnet-128"
    training_steps: int = 600
    checks_s: float = 100
    steps_s: float = 310
    training_s: float = 60
    round_s: float = 0.5
    roof: tuple[int, int, int, int] = ROOF_IMAGES


SMOKE = Plan(("unet-32", "resnet-32"), (1,), ("resnet-32",), "resnet-32", 30, 60, 60, 60, 0.01, (1, 8, 32, 32))


class OutOfTime(UserError):
    """The time of the whole command is over."""


class CheckFailed(Exception):
    """A difference was larger than it may be, or a loss did not fall."""


@dataclass
class Record:
    """The tables, printed row by row and written to a Markdown file after each."""

    output: Path | None
    lines: list[str] = field(default_factory=list)
    failures: int = 0

    def add(self, *lines: str) -> None:
        """Print lines, and write all so far."""
        for line in lines:
            echo(line)
        self.lines += lines
        if self.output is not None:
            atomic_text(self.output, "\n".join(self.lines) + "\n")

    def section(self, headings: list[str], jobs: Iterator[tuple[str, Job]], seconds: float) -> None:
        """Add a table with a row a job; after so many seconds no further job begins. A failure costs its row alone."""
        end = time.monotonic() + seconds
        self.add("", f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|")
        for name, job in jobs:
            cells = [f"not measured: the {seconds:g} s of this table were over"]
            if time.monotonic() < end:
                cells = self._result(job)
            cells = [*name.split(" | "), *cells]
            self.add(f"| {' | '.join([*cells, *[''] * (len(headings) - len(cells))])} |")

    def _result(self, job: Job) -> list[str]:
        import torch

        try:
            return job()
        except OutOfTime:
            raise
        except Exception as error:  # a row that fails says so, and the others are still measured
            self.failures += 1
            if not isinstance(error, CheckFailed):
                traceback.print_exc()
            return [f"**FAILED**: {(str(error) or type(error).__name__).splitlines()[0]}".replace("|", "/")]
        finally:
            gc.collect()
            torch.cuda.empty_cache()


def checks(plan: Plan, on: str) -> Iterator[tuple[str, Job]]:
    """Yield the comparisons: captured with eager steps, and the device with the CPU."""
    for row in plan.checked:
        for precision in TOLERANCES if on == "cuda" else ():
            sides = ((on, False), (on, True))
            yield f"{row}, {precision}: captured against eager steps", partial(agree, row, precision, sides, steps=6)
        yield f"{row}, float32: {on} against CPU", partial(agree, row, "float32", (("cpu", False), (on, False)))


def agree(row: str, precision: str, sides: tuple[tuple[str, bool], tuple[str, bool]], steps: int = 1) -> list[str]:
    """Compare the losses of first steps; not weights, for Adam moves those without a gradient by its rounding.

    `sides` are devices, and whether steps are captured.

    Raises:
        CheckFailed: They differ, relative to the larger of the first side's loss and 0.1, or one is no number.
    """
    import numpy as np
    import torch

    engines = [_engine(row, precision, on) for on, _ in sides]
    for name, network in engines[1].networks().items():
        network.load_state_dict(engines[0].networks()[name].state_dict())
    losses: list[list[float]] = []
    for engine, (on, is_captured) in zip(engines, sides, strict=True):
        step = _step_of(engine, is_captured)
        torch.manual_seed(1)
        losses.append([float(loss) for seed in range(steps) for loss in step(*_images(row, 2, on, seed)).values()])
    expected, made = np.array(losses)
    difference = np.max(np.abs(made - expected) / np.maximum(np.abs(expected), 0.1))
    if not difference <= TOLERANCES[precision]:  # nor NaN
        raise CheckFailed(f"losses differ by {difference:.2g}, above {TOLERANCES[precision]:g}")
    return [f"losses {difference:.2g}", f"{TOLERANCES[precision]:g}"]


def timings(plan: Plan, on: str) -> Iterator[tuple[str, Job]]:
    """Yield the timings, batch 1 of every row first; the plain step stands first among its sides."""
    precisions = ("float32", "tf32", "bf16") if on == "cuda" else ("float32", "bf16")
    kinds = [f"{precision}{form}" for precision in precisions for form in ("", " graph")[: 1 + (on == "cuda")]]
    roofs = cache(partial(roof_flop_a_second, on, plan))
    for batch in plan.batches:
        for row in plan.rows:
            plain: list[float] = []  # seconds of the plain step, once it is measured
            for kind in ("plain", *kinds):
                job = partial(time_step, row, batch, kind, on, plan.round_s, plain, roofs)
                yield f"{row} | {batch} | {kind}", job


def time_step(
    row: str, batch: int, kind: str, on: str, seconds: float, plain: list[float], roofs: Callable[[str], float]
) -> list[str]:
    """Return a side's cells: time of a step, slices a second, ratio to the plain step, share of the roof, memory."""
    import torch

    if on == "cuda":
        torch.cuda.reset_peak_memory_stats()
    work = prepare(row, batch, kind, on)
    for _ in range(WARM_UP):
        work()
    step_s = statistics.median(mean_seconds(work, seconds) for _ in range(ROUNDS))
    memory = f"{peak_mib():,.0f} MiB"
    if kind == "plain":
        plain.append(step_s)
    ratio = f"{step_s / plain[0]:.3f}" if plain else "–"
    precision = "float32" if kind == "plain" else kind.split()[0]
    share = f"{flop_once(row, batch) / step_s / roofs(precision):.0%}"
    return [duration_text(step_s), f"{batch / step_s:.4g}", ratio, share, memory]


def roof_flop_a_second(on: str, plan: Plan, precision: str) -> float:
    """Return the rate of a large convolution in the better of two layouts."""
    works = [convolution(on, precision, layout, plan.roof) for layout in LAYOUTS]
    for work in works:
        mean_seconds(work, 0.0)
    return roof_flop(plan.roof) / min(mean_seconds(work, plan.round_s) for work in works)


def trainings(plan: Plan, on: str) -> Iterator[tuple[str, Job]]:
    """Yield a short training as it is, and on a GPU one in bf16 with captured steps."""
    forms = (("float32", False), ("bf16", True)) if on == "cuda" else (("float32", False),)
    for precision, is_captured in forms:
        name = f"{plan.trained}, {precision}{', captured' if is_captured else ''}"
        yield name, partial(train, plan, precision, is_captured, on)


def train(plan: Plan, precision: str, is_captured: bool, on: str) -> list[str]:
    """Train on synthetic slices of two contrasts; return steps, seconds a step, and the cycle's loss before and after.

    Raises:
        CheckFailed: The cycle's loss did not fall by a quarter.
    """
    step = _step_of(_engine(plan.trained, precision, on), is_captured)
    batches = [_images(plan.trained, 4, on, seed) for seed in range(16)]
    tenth, started = plan.training_steps // 10, time.monotonic()
    cycles: list[Tensor] = []
    while len(cycles) < plan.training_steps and time.monotonic() - started < plan.training_s / 2:
        losses = step(*batches[len(cycles) % len(batches)])
        cycles.append((losses["cycle_a"] + losses["cycle_b"]).detach().clone())
    values = [float(cycle) for cycle in cycles]  # waits for the GPU
    step_s = (time.monotonic() - started) / len(values)
    first, last = (statistics.mean(part) for part in (values[:tenth], values[-tenth:]))
    if not last < 0.75 * first:
        raise CheckFailed(f"the cycle's loss went from {first:.3g} to {last:.3g} in {len(values)} steps")
    return [str(len(values)), duration_text(step_s), f"{first:.3g}", f"{last:.3g}"]


def _engine(row: str, precision: str, on: str) -> "Engine":
    import torch

    from pipeline.engines.builders import build_engine
    from pipeline.utils.hardware import tune

    torch.manual_seed(0)
    tune(torch.device(on), tf32=precision == "tf32")
    return build_engine(config_of(row, 2, "bf16" if precision == "bf16" else "float32"), torch.device(on))


def _step_of(engine: "Engine", is_captured: bool) -> "Callable[..., dict[str, Tensor]]":
    from pipeline.engines.cuda_graph import CapturedStep

    return CapturedStep(engine) if is_captured else engine.step


def _images(row: str, batch: int, on: str, seed: int) -> "tuple[Tensor, Tensor]":
    """Return synthetic slices (batch, 1, H, W) in [-1, 1] of two contrasts: heads whose core is dark, and bright."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, int(row.rpartition("-")[2]))
    contrasts = []
    for inner in (-0.4, 0.8):
        height, width, x, y = (torch.rand(4, batch, 1, 1, 1, generator=generator) - 0.5) * 0.3
        x, y = axis.view(1, 1, 1, -1) - x, axis.view(1, 1, -1, 1) - y
        head = (x / (0.7 + width)) ** 2 + (y / (0.8 + height)) ** 2 < 1
        core = (x / 0.3) ** 2 + (y / 0.4) ** 2 < 1
        images = torch.where(core, torch.tensor(inner), torch.where(head, torch.tensor(0.2), torch.tensor(-1.0)))
        contrasts.append((images + 0.02 * torch.randn(images.shape, generator=generator)).clamp(-1, 1).to(on))
    return contrasts[0], contrasts[1]


def _stop(number: int, frame: FrameType | None) -> None:
    raise OutOfTime(f"{LIMIT_S} s are over; the tables so far are complete, and what is missing was not measured")


def main(argv: list[str] | None = None) -> int:
    """Check, measure and train."""
    parser = benchmark_parser("cuda", __doc__)
    parser.add_argument("--device", default="cuda", type=device, help="cuda (default) or cpu")
    parser.add_argument("--output", type=Path, help="Markdown file of the tables")
    parser.add_argument("--smoke", action="store_true", help="networks and numbers that take no time")
    arguments = parser.parse_args(argv)
    plan, on, record = SMOKE if arguments.smoke else Plan(), arguments.device, Record(arguments.output)
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(LIMIT_S)
    try:
        record.add(machine())
        record.section(["check", "largest difference", "allowed"], checks(plan, on), plan.checks_s)
        headings = ["job", "batch", "side", "time a step", "slices/s", "ratio to plain", "of the roof", "peak memory"]
        record.section(headings, timings(plan, on), plan.steps_s)
        headings = ["training", "steps", "time a step", "cycle loss, first tenth", "last tenth"]
        record.section(headings, trainings(plan, on), plan.training_s)
    finally:
        signal.alarm(0)
    record.add("", f"{record.failures} failed" if record.failures else "all done")
    return EXIT_PARTLY_DONE if record.failures else EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
