"""Growth of time and memory with the size of the work: a row for each size, and the exponent of a power law.

python -m benchmarks.scaling                     # everything
python -m benchmarks.scaling pixels batch

"exponent" is the slope of log time over log size, 1 where twice the work takes twice the time. Steps are U-Nets of
width 16 at depth 7 (`benchmarks.step unet-128`), whole jobs are the commands as a user starts them, imports included.
"length" makes a small run of many short epochs, MLflow following, and compares its fifths: neither a step nor an
epoch's end (validation, pictures, checkpoint) may cost more for the run having lasted longer. That end is the gap
between the last line of losses of an epoch and the first of the next one, less a step.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.commands import overrides_within, run_command
from benchmarks.step import prepare as prepare_step
from benchmarks.timing import Side, Timing, Work, duration_text, machine, measure
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = (
    "data.subjects=6", "data.spacing_mm=8", "preprocess.size=32", "preprocess.processes=1", "split.validation=1",
    "split.test=1", "generator.depth=2", "generator.width=4", "discriminator.layers=2", "discriminator.width=4",
    "training.decay_epochs=0", "training.log_every=1", "training.validation_slices=6",
    "threads=1", "device=cpu", "evaluation.translate=false", "evaluation.protocols=[]", "evaluation.uncertainty=false",
)  # fmt: skip
PIXELS, BATCHES, SLICES, SUBJECTS = (128, 256, 512), (1, 2, 4, 8, 16), (40, 80, 160, 320), (100, 1000, 10_000)
VOLUMES = (5, 20, 80, 320)


def step_work(pixels: int, batch: int) -> Work:
    """Return a step of ours on square slices of `pixels` a side."""
    from benchmarks import step

    step.ROWS["unet-128"] = step.Row(pixels, *(getattr(step.ROWS["unet-128"], section) for section in
                                               ("method", "generator", "discriminator")))  # fmt: skip
    return prepare_step("unet-128", batch, "float32", "cpu", None)


def translation_work(slices: int) -> Work:
    """Return the translation of `slices` slices of 128² pixels by a U-Net of width 16."""
    import torch

    from networks.cpu_kernels import accelerate
    from networks.unet import UNet
    from pipeline.inference.slice_translator import translate_slices
    from pipeline.utils.hardware import set_up

    set_up(None)
    network, stack = accelerate(UNet(depth=7, width=16).eval()), np.zeros((slices, 128, 128), np.float32)
    options = {"device": torch.device("cpu"), "batch_size": 8, "precision": "float32", "name": "slices"}
    return lambda: translate_slices(stack, network, np.ones(slices, bool), **options)


def job_work(volumes: int) -> Work:
    """Return the translation of `volumes` compressed volumes of 64×64×32 voxels, as by the command."""
    import nibabel as nib

    from benchmarks.models import benchmark_model, ellipsoid_volume
    from pipeline.inference.batch import batch
    from pipeline.inference.batch.jobs import Job
    from pipeline.inference.batch.provenance import Provenance
    from pipeline.inference.multi_view import open_multi_view
    from pipeline.utils.hardware import set_up

    set_up(None)  # as the command does: memory that is freed stays with the process
    folder = TemporaryDirectory()  # it lives as long as the work
    source = Path(folder.name) / "source.nii.gz"
    nib.save(nib.Nifti1Image(ellipsoid_volume(64, 32), np.eye(4)), source)
    model, to = benchmark_model(None, None, 8, 64, "cpu")
    views = open_multi_view(["small"], [model], to, None, uncertainty=False)
    translator = batch.JobTranslator(views, Provenance(to, "", ""))
    targets = [Path(folder.name) / f"{number}.nii.gz" for number in range(volumes)]
    return lambda folder=folder: batch.translate_jobs(
        [Job(source, target) for target in targets], translator, quiet=True
    )


def measure_sizes(make: Callable[..., Work], sizes: Mapping[int, Mapping[str, int]], rounds: int) -> dict[int, Timing]:
    """Time the work at each size."""
    sides = {str(size): Side(make, options) for size, options in sizes.items()}
    return {int(name): timing for name, timing in measure(sides, rounds=rounds).items()}


def power_law_exponent(sizes: list[int], values: list[float]) -> float:
    """Return the exponent b of the power law value = a · size^b through the points, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def quantity_rows(name: str, unit: str, timings: Mapping[int, Timing]) -> list[list[str]]:
    """Return a quantity's table rows: its sizes, and the exponents."""
    sizes = list(timings)
    peaks = [timing.peak_mib for timing in timings.values()]
    peak_texts = [f"{peak:,.0f} MiB" for peak in peaks] if all(peaks) else ["–"] * len(peaks)
    rows = [
        [name, f"{size:,} {unit}", duration_text(timings[size].seconds), peak]
        for size, peak in zip(sizes, peak_texts, strict=True)
    ]
    exponent = f"{power_law_exponent(sizes, [timing.seconds for timing in timings.values()]):.2f}"
    return [*rows, [name, "exponent", exponent, f"{power_law_exponent(sizes, peaks):.2f}" if all(peaks) else "–"]]


def measure_plans(rounds: int) -> dict[int, Timing]:
    """Time `--dry-run` of cohorts in fresh processes."""
    timings = {}
    with TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pipeline.run",
            str(CONFIGS / "phantom.yaml"),
            "--dry-run",
            *overrides_within(folder),
        ]
        for subjects in SUBJECTS:
            seconds = tuple(command_seconds([*command, f"data.subjects={subjects}"]) for _ in range(rounds))
            timings[subjects] = Timing(seconds, 0.0, 0.0)  # the memory of another process is not known
    return timings


def command_seconds(command: list[str]) -> float:
    """Return the seconds that a command takes.

    Raises:
        RuntimeError: the command fails; the message has the end of its output.
    """
    started = time.perf_counter()
    process = run_command(command)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{process.stderr[-2000:]}")
    return time.perf_counter() - started


def run_length(epochs: int, steps: int) -> list[list[str]]:
    """Make a small run of `epochs` epochs of `steps` steps, each with a log line; return its table rows."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"  # of the run, which inherits it
        overrides = (f"training.epochs={epochs}", f"training.steps_per_epoch={steps}", *overrides_within(folder))
        command_seconds(
            [sys.executable, "-m", "pipeline.run", str(CONFIGS / "phantom.yaml"), *TINY, *overrides, "--quiet"]
        )
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "train/cycle_a" in record]
    step_gaps, epoch_ends = epoch_gaps([(record["step"], record["time"]) for record in records], steps)
    return [*fifths("a step", step_gaps), *fifths("an epoch's end", epoch_ends)]


def epoch_gaps(records: list[tuple[int, float]], steps: int) -> tuple[list[float], list[float]]:
    """Return the seconds of steps within their epochs, and those of the ends of epochs.

    Args:
        records: Number and end time of every step, from step 1 on.
        steps: Number of steps in an epoch.
    """
    gaps = [(after[0] % steps == 1, after[1] - before[1]) for before, after in pairwise(records)]
    step_gaps = [gap for is_first, gap in gaps if not is_first]
    median_step = float(np.median(step_gaps))
    return step_gaps, [gap - median_step for is_first, gap in gaps if is_first]


def fifths(name: str, seconds: list[float]) -> list[list[str]]:
    """Return a table row with the mean of each fifth of a run, and one with the ratio of the last to the first."""
    means = [float(fifth.mean()) for fifth in np.array_split(np.array(seconds), 5)]
    rows = [["run length", f"{name}, fifth {number}", duration_text(mean), "–"] for number, mean in enumerate(means, 1)]
    return [*rows, ["run length", f"{name}, last over first", f"{means[-1] / means[0]:.2f}", "–"]]


QUANTITIES: dict[str, Callable[[int], list[list[str]]]] = {
    "pixels": lambda rounds: quantity_rows(
        "step", "pixels a side", measure_sizes(step_work, {n: {"pixels": n, "batch": 1} for n in PIXELS}, rounds)
    ),
    "batch": lambda rounds: quantity_rows(
        "step", "a batch", measure_sizes(step_work, {n: {"pixels": 128, "batch": n} for n in BATCHES}, rounds)
    ),
    "slices": lambda rounds: quantity_rows(
        "translation", "slices", measure_sizes(translation_work, {n: {"slices": n} for n in SLICES}, rounds)
    ),
    "volumes": lambda rounds: quantity_rows(
        "job", "volumes", measure_sizes(job_work, {n: {"volumes": n} for n in VOLUMES}, rounds)
    ),
    "subjects": lambda rounds: quantity_rows("dry run", "subjects", measure_plans(rounds)),
}


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    names = (*QUANTITIES, "length")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("quantities", nargs="*", metavar="QUANTITY", help=f"of {', '.join(names)}; all unless given")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--epochs", type=count, default=100, help="of the run whose length is looked at, 6 at least")
    parser.add_argument("--steps", type=count, default=50, help="in each of its epochs, 2 at least")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.quantities) - set(names):
        parser.error(f"no such quantity: {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    if arguments.epochs < 6 or arguments.steps < 2:
        parser.error("a run's fifths need 6 epochs and 2 steps at least")
    rows = []
    for name in arguments.quantities or names:
        rows += (
            run_length(arguments.epochs, arguments.steps) if name == "length" else QUANTITIES[name](arguments.rounds)
        )
    echo(machine())
    echo(table(["what", "size", "time", "peak memory"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
