"""Do several runs and compare them: `python -m pipeline.sweep CONFIG CONFIG … [key=value,value …]`."""

import argparse
import re
import typing
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pipeline import __version__
from pipeline.comparison.comparability import setting_differences
from pipeline.comparison.comparison import compare_folders
from pipeline.config.load import load_config, load_settings, schema_keys, takes_text
from pipeline.config.methods import PAIRED
from pipeline.config.schema import Config
from pipeline.run_config import fingerprint, is_finished
from pipeline.runs.folder import RunFolder
from pipeline.sweeping import sweep_jobs
from pipeline.sweeping.cluster import slurm_executor, submit_and_wait
from pipeline.sweeping.grid import Combination, combinations
from pipeline.sweeping.optuna_search import Search, SearchRange, Values, parse_range, search_settings
from pipeline.sweeping.sweep_jobs import SweepJob, cuda_devices, work_through
from pipeline.training.initial_weights import require_initial_weights
from pipeline.utils.arguments import count, path_argument, path_or_address
from pipeline.utils.console import cli_main, echo, warn
from pipeline.utils.errors import EXIT_DONE, EXIT_PARTLY_DONE, UserError
from pipeline.utils.files import is_file, require_writable

if typing.TYPE_CHECKING:
    from pipeline.sweeping.sweep_record import SweepRecord

DEFAULT, PAGE, STUDY = Path("runs/sweep"), "compare.html", "search.db"
Work = Callable[[Sequence[SweepJob], Callable[[SweepJob], bool] | None], None]  # jobs, and which are not worth it
EPILOG = """exit codes: 0 all done, 2 bad input or configuration (checked before the first run starts), 3 some or all
runs failed or could not be compared, 129/130/143 stopped with checkpoints, 1 our bug
Each run has a process and a log file of its own (FOLDER/logs). The same command goes on where it stopped, and leaves
out what is finished. Where no further process can be started, those under way are stopped with checkpoints: 2.

method.cycle_weight=2,5,10 seed=0..2 does every combination, each a run of its own: NAME-cycle_weight-2_seed-0."""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(
        prog="python -m pipeline.sweep",
        description="Train, evaluate and report several runs, then compare those that finished.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("items", nargs="+", type=_item, metavar="CONFIG … key=value …",
                         help="YAML configurations, and changes for all of them; several values (2,5,10 or 0..2) "
                         "make several runs")  # fmt: skip
    command.add_argument("-o", "--output", type=path_argument, metavar="FOLDER",
                         help="put runs, logs and comparison here (default: each run where its configuration says, "
                         f"logs and comparison in {DEFAULT})")  # fmt: skip
    command.add_argument("--jobs", type=count, default=1, metavar="N",
                         help="runs at once (default: 1); on a machine with several CUDA devices each takes one; "
                         "on a CPU set threads=… so that they share it")  # fmt: skip
    command.add_argument("--again", action="store_true",
                         help="evaluate and report anew what is finished (default: skip a run whose folder holds it "
                         "finished with the same configuration)")  # fmt: skip
    command.add_argument("--cluster", choices=("slurm",),
                         help="submit the runs as an array of jobs, and wait for them "
                         "(default: processes here)")  # fmt: skip
    command.add_argument("--slurm", nargs="+", action="extend", default=[], metavar="key=value",
                         help="of each job, as sbatch's options: time=240 (minutes) gres=gpu:1 mem=32GB …")  # fmt: skip
    command.add_argument("--search", type=count, metavar="N",
                         help="do N runs of one configuration whose settings Optuna proposes from --range, so that the "
                         "validation score is high")  # fmt: skip
    command.add_argument("--range", nargs="+", action="extend", default=[], dest="ranges",
                         metavar="key=low..high[:log]",
                         help="what a search proposes: training.learning_rate=1e-4..1e-2:log")  # fmt: skip
    command.add_argument("--quiet", action="store_true", help="say nothing but failures and the comparison")
    command.add_argument("--version", action="version", version=__version__)
    return command


def _item(text: str) -> str:
    """Return a configuration's path with `~` and variables expanded, or a `key=value` setting unchanged."""
    return text if "=" in text else path_or_address(text)


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    # Read the configurations, and check all of them before the first run starts.
    arguments = parser().parse_intermixed_args(argv)
    overrides = [item for item in arguments.items if "=" in item and not is_file(Path(item))]
    paths = [Path(item) for item in arguments.items if item not in overrides]
    if not paths:
        raise UserError("no configuration to run; give YAML files, such as configs/phantom.yaml")
    home = arguments.output or DEFAULT
    require_writable(home / PAGE, home / "logs" / "log")
    work, ranges, runs = _plan(arguments, paths, overrides, home)

    # Do what is not finished, then compare.
    from pipeline.sweeping.sweep_record import sweep_record

    tracked = next((config for config, _ in runs if config.tracking.mlflow), None)
    title = f"Search of {arguments.search} trials" if arguments.search else f"Sweep of {len(runs)} runs"
    with sweep_record(
        home, title, paths, [*overrides, *arguments.ranges],
        experiment=tracked.tracking.experiment if tracked else None, source=runs[0][0].data.source,
    ) as record:  # fmt: skip
        if arguments.search:
            jobs = _search(paths[0], overrides, ranges, home, arguments, work, record)
            return _conclude(jobs, home / PAGE, arguments.quiet, record)
        _warn_of_differences([config for config, _ in runs])
        jobs = [job for _, job in runs]
        finished = [job for job in jobs if job.code is not None]
        if finished and not arguments.quiet:
            echo(f"finished before, so skipped: {', '.join(job.name for job in finished)} (--again evaluates anew)")
        record.start(jobs)
        work(jobs, None)
        return _conclude(jobs, home / PAGE, arguments.quiet, record)


def _plan(
    arguments: argparse.Namespace, paths: Sequence[Path], overrides: Sequence[str], home: Path
) -> tuple[Work, list[SearchRange], list[tuple[Config, SweepJob]]]:
    """Return what does jobs, what a search proposes, and every run; for a search, runs at both ends of its ranges.

    Raises:
        UserError: Names all problems of options, settings and configurations.
    """
    problems = _option_problems(arguments, paths, overrides)
    work = _attempt(problems, partial(_work, arguments, home))
    attempts = [_attempt(problems, partial(parse_range, text, _is_whole)) for text in arguments.ranges]
    ranges = [search_range for search_range in attempts if search_range]
    chosen = _attempt(problems, partial(combinations, overrides, takes_text)) or []
    if arguments.search and len(chosen) > 1:
        problems.append("--search: takes one value of each setting; give several as --range")
    elif ranges:
        ends = zip(*(search_range.ends() for search_range in ranges), strict=True)
        chosen = [Combination((*overrides, *end)) for end in ends]
    checked = [_attempt(problems, partial(_run, path, choice, home, arguments)) for path in paths for choice in chosen]
    runs = [run for run in checked if run]
    if not problems and not arguments.search:
        problems = _collisions([config for config, _ in runs])
    if problems or work is None:
        raise UserError("\n  ".join(["no run was started:", *dict.fromkeys(problems)]))
    return work, ranges, runs


Result = typing.TypeVar("Result")


def _attempt(problems: list[str], action: Callable[[], Result]) -> Result | None:
    """Return the action's result; where it fails by the user's error, add that to the problems and return None."""
    try:
        return action()
    except UserError as error:
        problems.append(str(error))
        return None


def _option_problems(arguments: argparse.Namespace, paths: Sequence[Path], overrides: Sequence[str]) -> list[str]:
    """Return what is wrong with the options beside each other."""
    keys = [text.partition("=")[0] for text in (*overrides, *arguments.ranges)]
    checks = {
        "--slurm: of --cluster slurm alone; add that": arguments.slurm and not arguments.cluster,
        "--range: of --search N alone; add that": arguments.ranges and not arguments.search,
        "--search: has nothing to propose; add --range key=low..high": arguments.search and not arguments.ranges,
        "--search: takes one configuration": arguments.search and len(paths) > 1,
        "--search: goes on with its trials, and takes no --again": arguments.search and arguments.again,
    }
    problems = [problem for problem, is_wrong in checks.items() if is_wrong]
    if arguments.search:
        problems += [f"{key}: is given twice; a search takes it as --range alone, or as one value"
                     for key, number in Counter(keys).items() if number > 1]  # fmt: skip
    return problems


def _work(arguments: argparse.Namespace, home: Path) -> Work:
    """Return what does jobs: here, or on a cluster."""
    if arguments.cluster:
        executor = slurm_executor(home / "logs" / arguments.cluster, arguments.slurm, arguments.jobs)
        return lambda jobs, _: submit_and_wait(jobs, executor=executor, quiet=arguments.quiet)

    def work_here(jobs: Sequence[SweepJob], is_behind: Callable[[SweepJob], bool] | None) -> None:
        devices = cuda_devices() if arguments.jobs > 1 else []
        work_through(jobs, arguments.jobs, devices=devices, quiet=arguments.quiet, is_behind=is_behind)

    return work_here


def _is_whole(key: str) -> bool:
    """Whether a key takes whole numbers."""
    kinds = set(re.findall(r"\b(int|float)\b", str(schema_keys().get(key))))
    return kinds == {"int"}


def _run(path: Path, chosen: Combination, home: Path, arguments: argparse.Namespace) -> tuple[Config, SweepJob]:
    """Return a run's configuration and its job; one that is finished already has its exit code.

    Its folder lies below `--output` where that is given. One of several combinations has a folder below that, of its
    label, which its name has, too.

    Raises:
        UserError: The configuration is wrong, or the folder above those of the combinations is a run's own.
    """
    config = load_config(path, chosen.overrides)
    name, folder = config.name, config.folder if arguments.output is None else arguments.output / config.name
    run_overrides = [] if arguments.output is None else [f"output={_quoted(folder)}"]
    if chosen.label:
        if RunFolder(folder).config.exists():
            raise UserError(f"{folder}: holds a run of its own; choose another output (-o) for several")
        name, folder = f"{name}-{chosen.label}", folder / chosen.label
        run_overrides = [f"name={_quoted(name)}", f"output={_quoted(folder)}"]
    config = config.model_copy(update={"name": name, **({"output": folder} if run_overrides else {})})
    require_initial_weights(config.training.start_from, RunFolder(config.folder))
    is_done = not arguments.again and is_finished(RunFolder(config.folder), config)
    command = [*sweep_jobs.COMMAND, str(path), *chosen.overrides, *run_overrides, "--quiet"]
    return config, SweepJob(name, folder, command, home / "logs" / f"{name}.log", EXIT_DONE if is_done else None)


def _quoted(value: object) -> str:
    """Return a text as YAML's, in quotes."""
    return "'" + str(value).replace("'", "''") + "'"


def _warn_of_differences(configs: Sequence[Config]) -> None:
    """Warn of runs that cannot be compared with the first."""
    first_settings, *others = (config.model_dump(mode="json") for config in configs)
    for settings in others:
        names = f"{first_settings['name']} and {settings['name']}"
        for key, first, other in setting_differences(first_settings, settings):
            warn(f"warning: {names} cannot be compared: {key} is {first!r} and {other!r}")


def _collisions(configs: Sequence[Config]) -> list[str]:
    """Return an error for runs that share a name (used in logs and tables) or a folder."""
    counts = Counter(item for config in configs for item in (("name", config.name), ("output", str(config.folder))))
    return [
        f"{key} = {value}: is that of {number} runs; give each another"
        for (key, value), number in counts.items()
        if number > 1
    ]


def _search(
    path: Path,
    overrides: Sequence[str],
    ranges: Sequence[SearchRange],
    home: Path,
    arguments: argparse.Namespace,
    work: Work,
    record: "SweepRecord",
) -> list[SweepJob]:
    """Do the trials of a search, say which is the best, and return the jobs."""
    example = load_config(path, [*overrides, *(search_range.ends()[0] for search_range in ranges)])
    search = Search(home / STUDY, ranges, fingerprint(example))

    def job_of(number: int, values: Values) -> SweepJob:
        settings = [f"{key}={value!r}" for key, value in values.items()]
        return _run(path, Combination((*overrides, *settings), f"trial-{number}"), home, arguments)[1]

    record.start([])
    jobs = search_settings(search, arguments.search, arguments.jobs, job_of, work)
    scores = search.scores()
    if scores:
        best = max(scores, key=scores.__getitem__)
        values = " ".join(f"{key}={value:.6g}" for key, value in search.trials()[best].items())
        stopped = f" ({len(search.stopped_early())} more stopped early)" if search.stopped_early() else ""
        sentence = f"best of {len(scores)}{stopped}: trial-{best}, validation score {scores[best]:.3f}: {values}"
        echo(sentence)
        record.log_scores(scores, sentence)
    return jobs


def _conclude(jobs: Sequence[SweepJob], page: Path, quiet: bool, record: "SweepRecord") -> int:
    """Compare the finished runs, list the failed ones, and return the exit code."""
    finished, failed = [job for job in jobs if job.code == EXIT_DONE], [job for job in jobs if job.code != EXIT_DONE]
    compared = True
    if len(finished) > 1:
        try:
            folders = [job.folder for job in finished]
            compare_folders(folders, page, load_settings, PAIRED, quiet=quiet, log=record.log_comparison)
        except UserError as error:
            warn(f"warning: no comparison: {error}")
            compared = False
    elif not quiet:
        echo("no comparison: it needs two finished runs or more")
    record.finish(jobs)
    echo(f"{len(finished)} of {len(jobs)} runs are done")
    for job in failed:
        warn(f"failed: {job.failure()}")
    return EXIT_DONE if compared and not failed else EXIT_PARTLY_DONE


if __name__ == "__main__":
    raise SystemExit(main())
