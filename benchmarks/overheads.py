"""Costs besides the computation: a run's record, a command's start, the plan of a large cohort.

python -m benchmarks.overheads [--only record doors plan] [--rounds N] [--seconds S]

The record is kept as a run keeps it: steps of 95 ms (the demo's size, public code), in which the process sleeps, a line
of losses every `--log-every` steps, and a thread that sends them to MLflow (sqlite). Its cost is what the whole process
computes, threads and the closing included, beyond one that sleeps alike and records nothing; the start (imports,
tables) is given separately. Commands ("doors") run in new processes, and their output is checked.
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

from benchmarks.timing import ROOT, duration_text, in_turns, machine, overrides_within, run_command
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table

STEP_SECONDS = 0.095  # 128², width 16, batch 1, of the public code
LOG_EVERY = 10  # steps, as configurations have it unless they say otherwise
LOSSES = 8  # values a step
SUBJECTS = 10_000  # of the plan
PHANTOM = str(ROOT / "configs" / "phantom.yaml")
NOTHING, FILE, FOLLOWED, PLAIN = "nothing", "metrics.jsonl alone", "ours, MLflow following", "mlflow.log_metric"
COMMANDS = {  # by name: arguments that the command must refuse, and a part of its message
    "run": ([PHANTOM, "training.epochs=none"], "training.epochs = 'none': must be"),
    "sweep": ([PHANTOM, "training.epochs=none"], "training.epochs = 'none': must be"),
    "explore": (["no_such.yaml"], "no_such.yaml: No such file"),
    "translate": (["-i", "{volume}", "-o", "{folder}/out", "--model", "no_such_run"], "no_such_run: no such model"),
    "compare": (["no_such_run", "other"], "not a run's folder"),
    "sync": (["no_such_run"], "no_such_run: no such folder"),
    "download": (["ixi", "-o", "{volume}/data"], "cannot be made"),
}


def measure_record(variant: str, steps: int, step_seconds: float, log_every: int) -> dict[str, float]:
    """Keep a record of steps that do nothing else; return seconds.

    Returns:
        `start`: processor time until the first step; `computed`: processor time from then on, including the closing;
        `waited`: time that the steps and the closing waited for the record.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, chdir(folder):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        log, close = _open_record(variant, Path(folder) / "run")
        values, waited = {f"loss/{index}": 0.5 for index in range(LOSSES)}, 0.0
        start = before = time.process_time()
        for step in range(1, steps + 1):
            time.sleep(step_seconds)
            if step % log_every == 0:
                waiting_since = time.perf_counter()
                log(values, step)
                waited += time.perf_counter() - waiting_since
        waiting_since = time.perf_counter()
        close()
        waited += time.perf_counter() - waiting_since
        return {"start": start, "computed": time.process_time() - before, "waited": waited}


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

    tracker = Tracker(folder, experiment="overheads", run_name="one", params={}, mlflow=variant == FOLLOWED)
    while variant == FOLLOWED and tracker.run_id is None and tracker.is_connected:
        time.sleep(0.1)
    if variant == FOLLOWED and not tracker.is_connected:
        raise RuntimeError("MLflow does not answer")
    return tracker.log_metrics, tracker.close


def record_rows(seconds: float, step_seconds: float, log_every: int, rounds: int) -> list[list[str]]:
    """Return a row for each way of keeping the record, with medians over the rounds."""
    steps = max(log_every, round(seconds / step_seconds))

    def measure_in_process(variant: str) -> dict[str, float]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(measure_record, (variant, steps, step_seconds, log_every))

    measurements = in_turns([NOTHING, FILE, FOLLOWED, PLAIN], rounds, measure_in_process, "records")
    idle = measurements.pop(NOTHING)
    rows = []
    for variant, rounds_of_variant in measurements.items():
        extra_seconds = [
            measurement["computed"] - baseline["computed"]
            for measurement, baseline in zip(rounds_of_variant, idle, strict=True)
        ]
        computed = max(0.0, statistics.median(extra_seconds)) / steps
        waited = statistics.median(measurement["waited"] for measurement in rounds_of_variant) / steps
        shares = [f"{cost / step_seconds:.2%}" for cost in (computed, waited)]
        start = statistics.median(measurement["start"] for measurement in rounds_of_variant)
        rows.append(
            [variant, duration_text(computed), shares[0], duration_text(waited), shares[1], duration_text(start)]
        )
    return rows


def answer_row(title: str, rounds: int, *arguments: str, expected: str, code: int = 0) -> list[str]:
    """Return a row with the median time of a command in fresh processes, whose answer is checked."""
    durations = [run_command("-m", *arguments, code=code, expected=expected)[0] for _ in range(rounds)]
    return [title, duration_text(statistics.median(durations))]


def command_rows(rounds: int) -> list[list[str]]:
    """Return rows of every command's `--help` and refusal."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "scan.nii"
        volume.touch()
        for name, (arguments, expected) in COMMANDS.items():
            module = f"pipeline.{name}"
            bad_arguments = [argument.format(volume=volume, folder=folder) for argument in arguments]
            rows.append(answer_row(f"{name} --help", rounds, module, "--help", expected=f"python -m {module}"))
            rows.append(answer_row(f"{name}, refused", rounds, module, *bad_arguments, expected=expected, code=2))
    return rows


def plan_row(subjects: int) -> list[str]:
    """Return a row of `--dry-run` for a number of subjects."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["pipeline.run", PHANTOM, "--dry-run", f"data.subjects={subjects}", *overrides_within(folder)]
        return answer_row(f"run --dry-run, {subjects:,} subjects", 1, *arguments, expected="nothing was written")


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overheads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("record", "doors", "plan")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="what to measure")
    parser.add_argument("--log-every", type=count, default=LOG_EVERY, help="steps to a line of the record")
    parser.add_argument("--seconds", type=float, default=20.0, help="that a record is kept for in each round")
    parser.add_argument("--rounds", type=count, default=5, help="of keeping each record, and of asking a door")
    arguments = parser.parse_args(argv)
    echo(machine())
    if "record" in arguments.only:
        rows = record_rows(arguments.seconds, STEP_SECONDS, arguments.log_every, arguments.rounds)
        step_text = duration_text(STEP_SECONDS)
        echo(f"\na record of {LOSSES} values every {arguments.log_every} steps of {step_text}, by the step")
        echo(table(["record", "computed", "of a step", "waited for", "of a step", "start, once"], rows))
    answer_rows = command_rows(arguments.rounds) if "doors" in arguments.only else []
    answer_rows += [plan_row(SUBJECTS)] if "plan" in arguments.only else []
    if answer_rows:
        echo("\n" + table(["answer", "time"], answer_rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
