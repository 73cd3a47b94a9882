"""Samples per second of one process with all cores, and of several that share them, as `torchrun` starts them.

python -m benchmarks.together --processes 1 2 --batch 2
python -m benchmarks.together unet-256 --processes 1 2 4 8 --batch 16 --device cuda

The batch is divided among the processes, as in training: the same mathematics at every number of them. On a CPU the
cores are divided, too, so that at best they are as fast; on GPUs each process has its own. The numbers of processes
take turns, and the last column is the median of each round's ratio of rates.
"""

import argparse
import os
import sys
import time

from benchmarks.commands import run_command
from benchmarks.options import device
from benchmarks.step import ROWS, config_of
from benchmarks.timing import Timing, duration_text, in_turns, machine
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table


def work(row: str, batch: int, device: str, steps: int) -> None:
    """Train a few steps as one of several processes; the first prints the seconds a step takes."""
    import torch

    from pipeline.engines.builders import build_engine
    from pipeline.utils.distributed import init_distributed
    from pipeline.utils.hardware import choose_device, set_up, tune

    with init_distributed() as world:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        set_up(max(1, cores // world.size))
        config, torch_device = config_of(row, batch), choose_device(device)
        tune(torch_device, tf32=config.training.tf32)
        torch.manual_seed(0)
        engine = build_engine(config, torch_device, world)
        local_batch, size = len(world.local_slots(batch)), config.preprocess.size
        images = (torch.rand(2, local_batch, 1, size, size) * 2 - 1).to(torch_device)
        for _ in range(2):
            engine.step(*images)
        world.barrier()
        started = time.perf_counter()
        for _ in range(steps):
            losses = engine.step(*images)
        float(next(iter(losses.values())))  # waits for a GPU
        world.barrier()
        if world.is_main:
            echo(f"{(time.perf_counter() - started) / steps}")


def seconds_a_step(processes: int, arguments: argparse.Namespace) -> float:
    """Start the processes and return the seconds that the first one measured.

    Raises:
        RuntimeError: they failed; the message has the end of their output.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    options = ["--work", "--batch", str(arguments.batch), "--device", arguments.device, "--steps", str(arguments.steps)]
    command = [sys.executable, *launcher, "-m", "benchmarks.together", arguments.row, *options]
    process = run_command(command)
    if process.returncode:
        raise RuntimeError(f"{processes} processes: exit code {process.returncode}\n{process.stderr[-2000:]}")
    return float(process.stdout.strip().splitlines()[-1])


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.together", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="?", default="unet-128", choices=list(ROWS))
    parser.add_argument("--processes", nargs="+", type=count, default=[1, 2])
    parser.add_argument("--batch", type=count, default=2, help="samples of all processes together")
    parser.add_argument("--device", default="cpu", type=device, help="cpu (default), cuda, mps or auto")
    parser.add_argument("--steps", type=count, default=30)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.work:
        work(arguments.row, arguments.batch, arguments.device, arguments.steps)
        return 0
    if invalid_counts := [count for count in arguments.processes if arguments.batch % count]:
        parser.error(
            f"--batch {arguments.batch}: cannot be divided among {invalid_counts[0]} processes; choose a multiple"
        )
    seconds_by_count = in_turns(arguments.processes, arguments.rounds, lambda count: seconds_a_step(count, arguments))
    timings = {count: Timing(tuple(seconds), 0.0, 0.0) for count, seconds in seconds_by_count.items()}
    first = timings[arguments.processes[0]]
    rows = [
        [
            f"{count}",
            duration_text(timing.seconds),
            f"{arguments.batch / timing.seconds:.3g}",
            f"{1 / timing.ratio_to(first):.2f}",
        ]
        for count, timing in timings.items()
    ]
    echo(machine())
    echo(table(["processes", "a step", "samples/s", f"against {arguments.processes[0]}"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
