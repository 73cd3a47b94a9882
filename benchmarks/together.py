"""Samples a second of one process with all cores against several that divide them, as `torchrun` starts them.

python -m benchmarks.together --processes 1 2 --batch 2
python -m benchmarks.together unet-256 --processes 1 2 4 8 --batch 16 --device cuda

The batch is divided among the processes, as in training: the same mathematics at every number of them. On a CPU the
cores are divided, too, so that 1 is all there is to gain; on GPUs each process has its own. The numbers of processes
take turns, and the last column is the median of each round's ratio of rates.
"""

import argparse
import os
import subprocess
import sys
import time

from benchmarks.options import device
from benchmarks.step import ROWS, config_of
from benchmarks.timing import Timing, duration_text, in_turns, machine
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table


def work(row: str, batch: int, device: str, steps: int) -> None:
    """Train a few steps as one of several processes; the first prints the seconds a step takes."""
    import torch

    from pipeline.engines.registry import build_engine
    from pipeline.utils.distributed import init_distributed
    from pipeline.utils.hardware import choose_device, set_up, tune

    with init_distributed() as world:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        set_up(max(1, cores // world.size))
        config, place = config_of(row, batch), choose_device(device)
        tune(place, tf32=config.training.tf32)
        torch.manual_seed(0)
        engine = build_engine(config, place, world)
        own, size = len(world.local_slots(batch)), config.preprocess.size
        images = (torch.rand(2, own, 1, size, size) * 2 - 1).to(place)
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
    """Start the processes and return what the first one measured.

    Raises:
        RuntimeError: they failed; with the end of what they said.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    options = ["--work", "--batch", str(arguments.batch), "--device", arguments.device, "--steps", str(arguments.steps)]
    command = [sys.executable, *launcher, "-m", "benchmarks.together", arguments.row, *options]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{processes} processes: exit code {ended.returncode}\n{ended.stderr[-2000:]}")
    return float(ended.stdout.strip().splitlines()[-1])


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    door = argparse.ArgumentParser(
        prog="python -m benchmarks.together", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    door.add_argument("row", nargs="?", default="unet-128", choices=list(ROWS))
    door.add_argument("--processes", nargs="+", type=count, default=[1, 2])
    door.add_argument("--batch", type=count, default=2, help="samples of all processes together")
    door.add_argument("--device", default="cpu", type=device, help="cpu (default), cuda, mps or auto")
    door.add_argument("--steps", type=count, default=30)
    door.add_argument("--rounds", type=count, default=3)
    door.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = door.parse_args(argv)
    if arguments.work:
        work(arguments.row, arguments.batch, arguments.device, arguments.steps)
        return 0
    if uneven := [count for count in arguments.processes if arguments.batch % count]:
        door.error(f"--batch {arguments.batch}: cannot be divided among {uneven[0]} processes; choose a multiple")
    taken = in_turns(arguments.processes, arguments.rounds, lambda count: seconds_a_step(count, arguments))
    timings = {count: Timing(tuple(seconds), 0.0, 0.0) for count, seconds in taken.items()}
    first = timings[arguments.processes[0]]
    rows = [
        [
            f"{count}",
            duration_text(one.seconds),
            f"{arguments.batch / one.seconds:.3g}",
            f"{1 / one.ratio_to(first):.2f}",
        ]
        for count, one in timings.items()
    ]
    echo(machine())
    echo(table(["processes", "a step", "samples/s", f"against {arguments.processes[0]}"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
