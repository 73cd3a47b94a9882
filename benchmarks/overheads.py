"""What is paid beside the work: a step's record, a door's answer, the plan of a large cohort.

python -m benchmarks.overheads [--step-seconds S] [--rounds N]

The record of a step is our tracker's, against `mlflow.log_metric` to sqlite; its share is of `--step-seconds`, by
default the public CycleGAN's step at the demo's size. Doors are asked in processes of their own.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import Side, Work, machine, measure, show, spelt
from pipeline.console import say, table

STEP_SECONDS = 0.095  # 128², width 16, batch 1, of the public code
DOORS = ("run", "translate", "compare", "sweep", "explore", "download", "sync")
WRONG = {  # the arguments of a door that has to refuse them
    "run": ["configs/phantom.yaml", "training.epochs=none"],
    "sweep": ["configs/phantom.yaml", "training.epochs=none"],
    "explore": ["no_such.yaml"],
    "translate": ["-i", "no_such.nii.gz", "-o", "out.nii.gz", "-m", "no_such_run"],
}
LOSSES = 8  # values a step


def record(how: str) -> Work:
    """Log a step's losses."""
    folder = Path(tempfile.mkdtemp())
    values, step = {f"loss/{index}": 0.5 for index in range(LOSSES)}, iter(range(10**9))
    if how == "ours":
        from pipeline.tracking.tracker import Tracker

        tracker = Tracker(folder, experiment="overheads", run_name="one", params={}, mlflow=False)
        return lambda: tracker.log_metrics(values, next(step))
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("overheads")
    mlflow.start_run()

    def one_by_one() -> None:
        number = next(step)
        for name, value in values.items():
            mlflow.log_metric(name, value, step=number)

    return one_by_one


def answer_seconds(arguments: list[str], rounds: int) -> tuple[float, int]:
    """Return the median time of a command in a fresh process, and its exit code."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", *arguments], capture_output=True).returncode
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), code


def main() -> None:
    """Print the tables."""
    door = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    door.add_argument("--step-seconds", type=float, default=STEP_SECONDS, help="of a training step")
    door.add_argument("--rounds", type=int, default=5)
    arguments = door.parse_args()
    say(machine())
    say(f"\nthe record of a step, {LOSSES} values")
    sides = {name: Side(record, {"how": name}) for name in ("mlflow.log_metric", "ours")}
    timings = measure(sides, rounds=arguments.rounds, title="record")
    show(timings, "step")
    for name, timing in timings.items():
        say(f"{name}: {timing.seconds / arguments.step_seconds:.2%} of a step of {spelt(arguments.step_seconds)}")
    rows = []
    for name in DOORS:
        seconds, code = answer_seconds([f"pipeline.{name}", "--help"], arguments.rounds)
        rows.append([f"{name} --help", spelt(seconds), code])
        if name in WRONG:
            seconds, code = answer_seconds([f"pipeline.{name}", *WRONG[name]], arguments.rounds)
            rows.append([f"{name}, refused", spelt(seconds), code])
    many = ["pipeline.run", "configs/phantom.yaml", "--dry-run", "data.subjects=10000"]
    seconds, code = answer_seconds(many, 1)
    rows.append(["run --dry-run, 10,000 subjects", spelt(seconds), code])
    say("\n" + table(["answer", "time", "exit code"], rows))


if __name__ == "__main__":
    main()
