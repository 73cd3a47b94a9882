"""Growth of time and memory with the size of the work: a row for each size, and the exponent of a power law.

python -m benchmarks.scaling                     # everything
python -m benchmarks.scaling pixels batch
python -m benchmarks.scaling processes --device cuda

"exponent" is the slope of log time over log size, 1 where twice the work takes twice the time. Steps are U-Nets of
width 16 at depth 7 (`benchmarks.step unet-128`). "processes" divides a batch among processes started by `torchrun`, as
in training: the same mathematics at every number of them. On a CPU the cores are divided, too, so that at best they are
as fast; on GPUs each process has its own.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import step
from benchmarks.inference import benchmark_model, ellipsoid_volume
from benchmarks.timing import ROOT, Side, Timing, Work, core_count, device, duration_text, in_turns, machine, measure
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table

ROW, PROCESS_STEPS = "unet-128", 20  # what several processes do, and how often


def step_work(pixels: int, batch: int) -> Work:
    """Return a step of ours on square slices of `pixels` a side."""
    step.ROWS[ROW] = replace(step.ROWS[ROW], size=pixels)
    return step.prepare(ROW, batch, "float32", "cpu")


def translation_work(slices: int) -> Work:
    """Return the translation of `slices` slices of 128² pixels by a U-Net of width 16."""
    from pipeline.inference.slice_translator import translate_slices
    from pipeline.utils.hardware import set_up

    set_up(None)
    model, to = benchmark_model(None, None, width=16, size=128)
    stack, everywhere = np.zeros((slices, 128, 128), np.float32), np.ones(slices, bool)
    options: dict[str, Any] = {
        "device": model.device,
        "batch_size": 8,
        "precision": "float32",
        "slice_mm": 1.0,
        "name": "slices",
    }
    return lambda: translate_slices(stack, model.translators[to], everywhere, **options)


def job_work(volumes: int) -> Work:
    """Return the translation of `volumes` compressed volumes of 64×64×32 voxels, as by the command."""
    import nibabel as nib

    from pipeline.inference.batch import batch
    from pipeline.inference.batch.jobs import Job
    from pipeline.inference.batch.provenance import Provenance
    from pipeline.inference.multi_view import open_multi_view
    from pipeline.utils.hardware import set_up

    set_up(None)  # as the command does: memory that is freed stays with the process
    folder = TemporaryDirectory()
    source = Path(folder.name) / "source.nii.gz"
    nib.save(nib.Nifti1Image(ellipsoid_volume(64, 32), np.eye(4)), source)
    model, to = benchmark_model(None, None, width=8, size=64)
    views = open_multi_view(["small"], [model], to, None, uncertainty=False)
    translator = batch.JobTranslator(views, Provenance(to, "", ""))

    def work(folder: TemporaryDirectory = folder) -> None:  # the folder lives as long as the work
        jobs = [Job(source, Path(folder.name) / f"{number}.nii.gz") for number in range(volumes)]
        batch.translate_jobs(jobs, translator, quiet=True)

    return work


# Quantity -> (what, counted unit, work, its option that grows, sizes, other options).
QUANTITIES: dict[str, tuple[str, str, Callable[..., Work], str, tuple[int, ...], dict[str, int]]] = {
    "pixels": ("step", "pixels a side", step_work, "pixels", (128, 256, 512), {"batch": 1}),
    "batch": ("step", "a batch", step_work, "batch", (1, 2, 4, 8, 16), {"pixels": 128}),
    "slices": ("translation", "slices", translation_work, "slices", (40, 80, 160, 320), {}),
    "volumes": ("job", "volumes", job_work, "volumes", (5, 20, 80, 320), {}),
}


def growth(name: str, rounds: int) -> list[list[str]]:
    """Measure a quantity at each of its sizes; return their table rows, and one with the exponents."""
    what, unit, prepare, option, sizes, others = QUANTITIES[name]
    sides = {str(size): Side(prepare, {option: size, **others}) for size in sizes}
    timings = measure(sides, rounds=rounds, title=name).values()
    rows = [
        [what, f"{size:,} {unit}", duration_text(timing.seconds), f"{timing.peak_mib:,.0f} MiB"]
        for size, timing in zip(sizes, timings, strict=True)
    ]
    exponents = (
        power_law_exponent(sizes, values)
        for values in ([timing.seconds for timing in timings], [timing.peak_mib for timing in timings])
    )
    return [*rows, [what, "exponent", *(f"{exponent:.2f}" for exponent in exponents)]]


def power_law_exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the exponent b of the power law value = a · size^b through the points, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


# ── several processes ───────────────────────────────────────────────────────────────────────────────────────


def divided_steps(batch: int, device: str) -> None:
    """Train a few steps as one of several processes; the first prints the seconds a step takes."""
    import torch

    from pipeline.engines.builders import build_engine
    from pipeline.utils.distributed import init_distributed
    from pipeline.utils.hardware import choose_device, set_up, tune

    with init_distributed() as world:
        set_up(max(1, core_count() // world.size))
        config, torch_device = step.config_of(ROW, batch), choose_device(device)
        tune(torch_device, tf32=config.training.tf32)
        torch.manual_seed(0)
        engine = build_engine(config, torch_device, world)
        local_batch, size = len(world.local_slots(batch)), config.preprocess.size
        images = (torch.rand(2, local_batch, 1, size, size) * 2 - 1).to(torch_device)
        for _ in range(2):
            engine.step(*images)
        world.barrier()
        started = time.perf_counter()
        for _ in range(PROCESS_STEPS):
            losses = engine.step(*images)
        float(next(iter(losses.values())))  # waits for a GPU
        world.barrier()
        if world.is_main:
            echo(f"{(time.perf_counter() - started) / PROCESS_STEPS}")


def process_rows(processes: list[int], batch: int, device: str, rounds: int) -> list[list[str]]:
    """Return a table row for each number of processes, which take turns; rates are against the first.

    Raises:
        subprocess.CalledProcessError: A process failed; its messages are on stderr.
    """

    def seconds_a_step(number: int) -> float:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}"] if number > 1 else []
        work = ["-m", "benchmarks.scaling", "processes", "--work", "--batch", str(batch), "--device", device]
        return float(run_python(*launcher, *work).strip().splitlines()[-1])

    seconds = in_turns(processes, rounds, seconds_a_step, "processes")
    timings = {number: Timing(tuple(durations)) for number, durations in seconds.items()}
    rows = []
    for number, timing in timings.items():
        against = f"{1 / timing.ratio_to(timings[processes[0]]):.2f} of the rate of {processes[0]}"
        rows.append(["step", f"{number} processes, {against}", duration_text(timing.seconds), "–"])
    return rows


def run_python(*arguments: str) -> str:
    """Run Python with this project's code; return its standard output."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    names = (*QUANTITIES, "processes")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("quantities", nargs="*", metavar="QUANTITY", help=f"of {', '.join(names)}; all unless given")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--processes", nargs="+", type=count, default=[1, 2], help="numbers of processes")
    parser.add_argument("--batch", type=count, default=2, help="samples of all processes together")
    parser.add_argument("--device", default="cpu", type=device, help="of the processes: cpu, cuda, mps or auto")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.quantities) - set(names):
        parser.error(f"no such quantity: {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    if arguments.work:
        divided_steps(arguments.batch, arguments.device)
        return 0
    if remainders := [number for number in arguments.processes if arguments.batch % number]:
        parser.error(f"--batch {arguments.batch}: cannot be divided among {remainders[0]} processes; choose a multiple")
    rows = []
    for name in arguments.quantities or names:
        if name == "processes":
            rows += process_rows(arguments.processes, arguments.batch, arguments.device, arguments.rounds)
        else:
            rows += growth(name, arguments.rounds)
    echo(machine())
    echo(table(["what", "size", "time", "peak memory"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
