"""A GPU's training steps in one process and nine minutes: are they right, how long do they take, do they learn.

python -m benchmarks.cuda --output cuda.md
python -m benchmarks.cuda --device cpu --smoke       # small, on a CPU: whether the script runs

Needs torch, NumPy, MONAI, pydantic, PyYAML and tqdm, and none of what reads, registers or tracks scans. Each section
has its seconds; what they do not reach is named in the table, which is written to `--output` after every row. Other
than in `benchmarks.step` all sides share a process, one after the other: on a GPU of one's own they need no turns.
"""

import argparse
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import FrameType

from benchmarks.cuda_checks import SMOKE, CheckFailed, Job, Plan, checks, trainings
from benchmarks.step import LAYOUTS, convolution, flop_of_step, prepare, roof_flop
from benchmarks.timing import device, duration_text, machine, mean_seconds, peak_mib
from pipeline.utils.console import cli_main, echo
from pipeline.utils.errors import EXIT_DONE, EXIT_PARTLY_DONE, UserError
from pipeline.utils.files import atomic_text

LIMIT_S = 530  # of the whole command, which then ends wherever it is
WARM_UP = 6  # calls: a step is recorded in the fourth, and a GPU's algorithms are chosen
ROUNDS = 3


class OutOfTime(UserError):
    """The time of the whole command is over."""


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
            _free_memory()


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def steps(plan: Plan, on: str) -> Iterator[tuple[str, Job]]:
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
    share = f"{flop_of_step(row, batch) / step_s / roofs(precision):.0%}"
    return [duration_text(step_s), f"{batch / step_s:.4g}", ratio, share, memory]


def roof_flop_a_second(on: str, plan: Plan, precision: str) -> float:
    """Return the rate of a large convolution in the better of two layouts."""
    works = [convolution(on, precision, layout, plan.roof) for layout in LAYOUTS]
    for work in works:
        mean_seconds(work, 0.0)
    return roof_flop(plan.roof) / min(mean_seconds(work, plan.round_s) for work in works)


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────


def _stop(number: int, frame: FrameType | None) -> None:
    raise OutOfTime(f"{LIMIT_S} s are over; the tables so far are complete, and what is missing was not measured")


def main(argv: list[str] | None = None) -> int:
    """Check, measure and train."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", type=device, help="cuda (default) or cpu")
    parser.add_argument("--output", type=Path, help="Markdown file of the tables")
    parser.add_argument("--smoke", action="store_true", help="networks and numbers that take no time")
    arguments = parser.parse_args(argv)
    plan, on, record = SMOKE if arguments.smoke else Plan(), arguments.device, Record(arguments.output)
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(LIMIT_S)
    try:
        record.add(machine())
        record.section(["check", "largest differences", "allowed"], checks(plan, on), plan.checks_s)
        headings = ["job", "batch", "side", "time a step", "slices/s", "ratio to plain", "of the roof", "peak memory"]
        record.section(headings, steps(plan, on), plan.steps_s)
        headings = ["training", "steps", "time a step", "cycle loss, first tenth", "last tenth"]
        record.section(headings, trainings(plan, on), plan.training_s)
    finally:
        signal.alarm(0)
    record.add("", f"{record.failures} failed" if record.failures else "all done")
    return EXIT_PARTLY_DONE if record.failures else EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
