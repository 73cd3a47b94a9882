"""What is paid beside the work: a run's record, a door's answer, the plan of a large cohort.

python -m benchmarks.overheads [--only record doors plan] [--rounds N] [--seconds S]

The record is kept as a run keeps it: steps of `--step-seconds` (the demo's size, public code), in which the process
sleeps, a line of losses every `--log-every` steps, and a thread that sends them to MLflow (sqlite). Its cost is what
the whole process computes, threads and the closing included, beyond one that sleeps alike and records nothing; the
start (imports, tables) is told apart. Doors are asked in processes of their own, and have to say what is expected.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path

from benchmarks.commands import overrides_within, run_command
from benchmarks.options import duration
from benchmarks.timing import in_turns, machine, spelt
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table

STEP_SECONDS = 0.095  # 128², width 16, batch 1, of the public code
LOG_EVERY = 10  # steps, as configurations have it unless they say otherwise
LOSSES = 8  # values a step
PHANTOM = str(Path(__file__).parents[1] / "configs" / "phantom.yaml")
NOTHING, FILE, FOLLOWED, PLAIN = "nothing", "metrics.jsonl alone", "ours, MLflow following", "mlflow.log_metric"
DOORS = {  # by name: the arguments that it has to refuse, and what it then says
    "run": ([PHANTOM, "training.epochs=none"], "training.epochs = 'none': must be"),
    "sweep": ([PHANTOM, "training.epochs=none"], "training.epochs = 'none': must be"),
    "explore": (["no_such.yaml"], "no_such.yaml: No such file"),
    "translate": (["-i", "{volume}", "-o", "{folder}/out", "--model", "no_such_run"], "no_such_run: no such model"),
    "compare": (["no_such_run", "other"], "not a run's folder"),
    "sync": (["no_such_run"], "no_such_run: no such folder"),
    "download": (["ixi", "-o", "{volume}/data"], "cannot be made"),
}


def kept_record(how: str, steps: int, step_seconds: float, log_every: int) -> dict[str, float]:
    """Make a record of steps in which nothing else is done; return seconds.

    Returns:
        `start`: of computing until the first step; `computed`: by the process from then on, the closing included;
        `waited`: that the steps and the closing waited for the record.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, chdir(folder):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        log, close = _opened(how, Path(folder) / "run")
        values, waited = {f"loss/{index}": 0.5 for index in range(LOSSES)}, 0.0
        start = before = time.process_time()
        for step in range(1, steps + 1):
            time.sleep(step_seconds)
            if step % log_every == 0:
                begun = time.perf_counter()
                log(values, step)
                waited += time.perf_counter() - begun
        begun = time.perf_counter()
        close()
        waited += time.perf_counter() - begun
        return {"start": start, "computed": time.process_time() - before, "waited": waited}


def _opened(how: str, folder: Path):
    """Return what logs a step's values, and what closes the record."""
    if how == NOTHING:
        return lambda values, step: None, lambda: None
    if how == PLAIN:
        import mlflow

        mlflow.set_experiment("overheads")
        mlflow.start_run()

        def one_by_one(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                mlflow.log_metric(name, value, step=step)

        return one_by_one, mlflow.end_run
    from pipeline.tracking.tracker import Tracker

    tracker = Tracker(folder, experiment="overheads", run_name="one", params={}, mlflow=how == FOLLOWED)
    while how == FOLLOWED and tracker.run_id is None and tracker.is_connected:
        time.sleep(0.1)
    if how == FOLLOWED and not tracker.is_connected:
        raise RuntimeError("MLflow does not answer")
    return tracker.log_metrics, tracker.close


def record(seconds: float, step_seconds: float, log_every: int, rounds: int) -> list[list[str]]:
    """Return a row a way of keeping the record: medians over the rounds."""
    steps = max(log_every, round(seconds / step_seconds))
    context = multiprocessing.get_context("spawn")

    def kept(how: str) -> dict[str, float]:
        with context.Pool(1) as pool:
            return pool.apply(kept_record, (how, steps, step_seconds, log_every))

    found = in_turns([NOTHING, FILE, FOLLOWED, PLAIN], rounds, kept, "records")
    idle = found.pop(NOTHING)
    rows = []
    for how, ones in found.items():
        beyond = [one["computed"] - none["computed"] for one, none in zip(ones, idle, strict=True)]
        computed = max(0.0, statistics.median(beyond)) / steps
        waited = statistics.median(one["waited"] for one in ones) / steps
        shares = [f"{part / step_seconds:.2%}" for part in (computed, waited)]
        start = statistics.median(one["start"] for one in ones)
        rows.append([how, spelt(computed), shares[0], spelt(waited), shares[1], spelt(start)])
    return rows


def answer_seconds(arguments: list[str], rounds: int, expected: str, code: int) -> float:
    """Return the median time of a command in a fresh process.

    Raises:
        RuntimeError: it ends with another exit code, or does not say what is expected.
    """
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        ended = run_command([sys.executable, "-m", *arguments])
        taken.append(time.perf_counter() - started)
        if ended.returncode != code or expected not in ended.stdout + ended.stderr:
            said = (ended.stderr or ended.stdout)[-500:]
            raise RuntimeError(f"{' '.join(arguments)}: exit code {ended.returncode}, not {code}; it says {said!r}")
    return statistics.median(taken)


def doors(rounds: int) -> list[list[str]]:
    """Return rows of every door's `--help` and of its refusal."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "scan.nii"
        volume.touch()
        for name, (arguments, expected) in DOORS.items():
            seconds = answer_seconds([f"pipeline.{name}", "--help"], rounds, f"python -m pipeline.{name}", 0)
            rows.append([f"{name} --help", spelt(seconds)])
            wrong = [part.format(volume=volume, folder=folder) for part in arguments]
            rows.append([f"{name}, refused", spelt(answer_seconds([f"pipeline.{name}", *wrong], rounds, expected, 2))])
    return rows


def plan(subjects: int) -> list[list[str]]:
    """Return a row of `--dry-run` for so many subjects."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["pipeline.run", PHANTOM, "--dry-run", f"data.subjects={subjects}", *overrides_within(folder)]
        seconds = answer_seconds(arguments, 1, "nothing was written", 0)
    return [[f"run --dry-run, {subjects:,} subjects", spelt(seconds)]]


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    door = argparse.ArgumentParser(
        prog="python -m benchmarks.overheads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("record", "doors", "plan")
    door.add_argument("--only", nargs="+", choices=parts, default=parts, help="what to measure")
    door.add_argument("--step-seconds", type=duration, default=STEP_SECONDS, help="of a training step")
    door.add_argument("--log-every", type=count, default=LOG_EVERY, help="steps to a line of the record")
    door.add_argument("--seconds", type=duration, default=20.0, help="that a record is kept for in each round")
    door.add_argument("--rounds", type=count, default=5, help="of keeping each record, and of asking a door")
    door.add_argument("--subjects", type=count, default=10_000, help="of the plan")
    told = door.parse_args(argv)
    echo(machine())
    if "record" in told.only:
        rows = record(told.seconds, told.step_seconds, told.log_every, told.rounds)
        echo(f"\na record of {LOSSES} values every {told.log_every} steps of {spelt(told.step_seconds)}, by the step")
        echo(table(["record", "computed", "of a step", "waited for", "of a step", "start, once"], rows))
    answers = doors(told.rounds) if "doors" in told.only else []
    answers += plan(told.subjects) if "plan" in told.only else []
    if answers:
        echo("\n" + table(["answer", "time"], answers))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
