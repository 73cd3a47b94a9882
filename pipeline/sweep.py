"""Do several runs and compare them: `python -m pipeline.sweep CONFIG CONFIG … [key=value …]`."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline import __version__
from pipeline.comparison.comparability import setting_differences
from pipeline.comparison.comparison import compare_folders
from pipeline.config.load import load_config, load_settings
from pipeline.config.methods import PAIRED
from pipeline.config.schema import Config
from pipeline.run_config import is_finished
from pipeline.runs.folder import RunFolder
from pipeline.sweep_jobs import SweepJob, cuda_devices, work_through
from pipeline.training.initial_weights import require_initial_weights
from pipeline.utils.arguments import count, path_argument, path_or_address
from pipeline.utils.console import cli_main, echo, warn
from pipeline.utils.errors import EXIT_DONE, EXIT_PARTLY_DONE, UserError
from pipeline.utils.files import require_writable

DEFAULT, PAGE = Path("runs/sweep"), "compare.html"
EPILOG = """exit codes: 0 all done, 2 bad input or configuration (checked before the first run starts), 3 some or all
runs failed or could not be compared, 129/130/143 stopped with checkpoints, 1 our bug
Each run has a process and a log file of its own (FOLDER/logs). The same command goes on where it stopped, and leaves
out what is finished. Where no further process can be started, those under way are stopped with checkpoints: 2."""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(
        prog="python -m pipeline.sweep",
        description="Train, evaluate and report several runs, then compare those that finished.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("items", nargs="+", type=_item, metavar="CONFIG … key=value …",
                         help="YAML configurations, and changes for all of them")  # fmt: skip
    command.add_argument("-o", "--output", type=path_argument, metavar="FOLDER",
                         help="put runs, logs and comparison here (default: each run where its configuration says, "
                         f"logs and comparison in {DEFAULT})")  # fmt: skip
    command.add_argument("--jobs", type=count, default=1, metavar="N",
                         help="runs at once (default: 1); on a machine with several CUDA devices each takes one; "
                         "on a CPU set threads=… so that they share it")  # fmt: skip
    command.add_argument("--again", action="store_true",
                         help="evaluate and report anew what is finished (default: skip a run whose folder holds it "
                         "finished with the same configuration)")  # fmt: skip
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
    overrides = [item for item in arguments.items if "=" in item and not Path(item).exists()]
    paths = [Path(item) for item in arguments.items if item not in overrides]
    if not paths:
        raise UserError("no configuration to run; give YAML files, such as configs/phantom.yaml")
    home = arguments.output or DEFAULT
    logs = home / "logs"
    require_writable(home / PAGE, logs / "log")
    configs = _load_all(paths, overrides, arguments.output)
    first_settings, *others = (config.model_dump(mode="json") for config in configs)
    for settings in others:
        names = f"{first_settings['name']} and {settings['name']}"
        for key, first, other in setting_differences(first_settings, settings):
            warn(f"warning: {names} cannot be compared: {key} is {first!r} and {other!r}")

    # Do what is not finished, then compare.
    jobs = []
    for path, config in zip(paths, configs, strict=True):
        command = _run_arguments(path, overrides, config.folder if arguments.output else None)
        done = not arguments.again and is_finished(RunFolder(config.folder), config)
        log = logs / f"{config.name}.log"
        jobs.append(SweepJob(config.name, config.folder, command, log, EXIT_DONE if done else None))
    finished = [job for job in jobs if job.code is not None]
    if finished and not arguments.quiet:
        echo(f"finished before, so skipped: {', '.join(job.name for job in finished)} (--again evaluates anew)")
    devices = cuda_devices() if arguments.jobs > 1 else []
    work_through(jobs, arguments.jobs, devices=devices, quiet=arguments.quiet)
    return _conclude(jobs, home / PAGE, arguments.quiet)


def _load_all(paths: Sequence[Path], overrides: Sequence[str], output: Path | None) -> list[Config]:
    """Load every configuration, with its run's folder below `output` where that is given; refuse all errors at once."""
    configs, problems = [], []
    for path in paths:
        try:
            config = load_config(path, overrides)
            if output is not None:
                config = config.model_copy(update={"output": output / config.name})
            require_initial_weights(config.training.start_from, RunFolder(config.folder))
            configs.append(config)
        except UserError as error:
            problems.append(str(error))
    problems = problems or _collisions(configs)
    if problems:
        raise UserError("\n  ".join(["no run was started:", *problems]))
    return configs


def _collisions(configs: Sequence[Config]) -> list[str]:
    """Return an error for runs that share a name (used in logs and tables) or a folder."""
    counts = Counter(item for config in configs for item in (("name", config.name), ("output", str(config.folder))))
    return [
        f"{key} = {value}: is that of {number} runs; give each another"
        for (key, value), number in counts.items()
        if number > 1
    ]


def _run_arguments(path: Path, overrides: Sequence[str], folder: Path | None) -> list[str]:
    """Return the arguments of `pipeline.run`; a folder is quoted for YAML."""
    output = [] if folder is None else ["output='" + str(folder).replace("'", "''") + "'"]
    return [str(path), *overrides, *output, "--quiet"]


def _conclude(jobs: Sequence[SweepJob], page: Path, quiet: bool) -> int:
    """Compare the finished runs, list the failed ones, and return the exit code."""
    finished, failed = [job for job in jobs if job.code == EXIT_DONE], [job for job in jobs if job.code != EXIT_DONE]
    compared = True
    if len(finished) > 1:
        try:
            compare_folders([job.folder for job in finished], page, load_settings, PAIRED, quiet=quiet)
        except UserError as error:
            warn(f"warning: no comparison: {error}")
            compared = False
    elif not quiet:
        echo("no comparison: it needs two finished runs or more")
    echo(f"{len(finished)} of {len(jobs)} runs are done")
    for job in failed:
        warn(f"failed: {job.failure()}")
    return EXIT_DONE if compared and not failed else EXIT_PARTLY_DONE


if __name__ == "__main__":
    raise SystemExit(main())
