"""Cost of a run's record, by the step: ours, followed by MLflow, beside `mlflow.log_metric`.

python -m benchmarks.overheads [--log-every N] [--seconds S] [--rounds N]

The record is kept as a run keeps it: steps of 95 ms (the demo's size, public code), in which the process sleeps, a line
of losses every `--log-every` steps, and a thread that sends them to MLflow (sqlite). Its cost is what the whole process
computes, threads and the closing included, beyond one that sleeps alike and records nothing.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

from benchmarks.timing import duration_text, in_turns, machine
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table

STEP_SECONDS = 0.095  # 128², width 16, batch 1, of the public code
LOG_EVERY = 10  # steps, as configurations have it unless they say otherwise
LOSSES = 8  # values a step
NOTHING, FOLLOWED, PLAIN = "nothing", "ours, MLflow following", "mlflow.log_metric"


def measure_record(variant: str, steps: int, log_every: int) -> float:
    """Keep a record of steps that do nothing else; return the process's seconds of computing, the closing included."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, chdir(folder):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        log, close = _open_record(variant, Path(folder) / "run")
        values, started = {f"loss/{index}": 0.5 for index in range(LOSSES)}, time.process_time()
        for step in range(1, steps + 1):
            time.sleep(STEP_SECONDS)
            if step % log_every == 0:
                log(values, step)
        close()
        return time.process_time() - started


def _open_record(variant: str, folder: Path) -> tuple[Callable[[dict[str, float], int], None], Callable[[], object]]:
    """Return a function that logs a step's values, and one that closes the record."""
    if variant == NOTHING:
        return lambda values, step: None, lambda: None
    if variant == PLAIN:
        import mlflow

        mlflow.set_experiment("overheads")
        mlflow.start_run()

        def log_each(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                mlflow.log_metric(name, value, step=step)

        return log_each, mlflow.end_run
    from pipeline.tracking.tracker import Tracker

    tracker = Tracker(folder, experiment="overheads", run_name="one", params={})
    while tracker.run_id is None and tracker.is_connected:
        time.sleep(0.1)
    if not tracker.is_connected:
        raise RuntimeError("MLflow does not answer")
    return tracker.log_metrics, tracker.close


def record_rows(seconds: float, log_every: int, rounds: int) -> list[list[str]]:
    """Return a row for each way of keeping the record, with medians over the rounds."""
    steps = max(log_every, round(seconds / STEP_SECONDS))

    def measure_in_process(variant: str) -> float:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(measure_record, (variant, steps, log_every))

    measurements = in_turns([NOTHING, FOLLOWED, PLAIN], rounds, measure_in_process, "records")
    idle, rows = measurements.pop(NOTHING), []
    for variant, durations in measurements.items():
        extra = statistics.median(busy - baseline for busy, baseline in zip(durations, idle, strict=True))
        computed = max(0.0, extra) / steps
        rows.append([variant, duration_text(computed), f"{computed / STEP_SECONDS:.2%}"])
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overheads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log-every", type=count, default=LOG_EVERY, help="steps to a line of the record")
    parser.add_argument("--seconds", type=float, default=20.0, help="that a record is kept for in each round")
    parser.add_argument("--rounds", type=count, default=5)
    arguments = parser.parse_args(argv)
    echo(machine())
    rows = record_rows(arguments.seconds, arguments.log_every, arguments.rounds)
    echo(
        f"\na record of {LOSSES} values every {arguments.log_every} steps of {duration_text(STEP_SECONDS)}, by the step"
    )
    echo(table(["record", "computed", "of a step"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
