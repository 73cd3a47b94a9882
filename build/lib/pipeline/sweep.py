"""Do several runs and compare them: `python -m pipeline.sweep CONFIG CONFIG … [key=value …]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline import __version__
from pipeline.comparison.comparability import config_differences
from pipeline.comparison.comparison import compare_folders
from pipeline.runs.folder import RunFolder
from pipeline.sweep_jobs import SweepJob, cuda_devices, plan, work_through
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
    arguments = parser().parse_intermixed_args(argv)
    overrides = [item for item in arguments.items if "=" in item and not Path(item).exists()]
    configs = [Path(item) for item in arguments.items if item not in overrides]
    if not configs:
        raise UserError("no configuration to run; give YAML files, such as configs/phantom.yaml")
    home = arguments.output or DEFAULT
    require_writable(home / PAGE, home / "logs" / "log")
    jobs = plan(configs, overrides, arguments.output, home / "logs")
    _warn_of_differences(jobs)
    if not arguments.again:
        _skip_finished(jobs, arguments.quiet)
    work_through(jobs, arguments.jobs, quiet=arguments.quiet, devices=cuda_devices() if arguments.jobs > 1 else ())
    return _conclude(jobs, home / PAGE, arguments.quiet)


def _warn_of_differences(jobs: Sequence[SweepJob]) -> None:
    """Warn before training of runs that cannot be compared."""
    first, *others = jobs
    for job in others:
        for key, first_value, job_value in config_differences(first.config, job.config):
            warn(f"warning: {first.name} and {job.name} cannot be compared: {key} is {first_value!r} and {job_value!r}")


def _skip_finished(jobs: Sequence[SweepJob], quiet: bool) -> None:
    """Mark runs as done that are finished in their folders with the same configuration."""
    finished = [job for job in jobs if RunFolder(job.config.folder).is_finished(job.config)]
    for job in finished:
        job.code = EXIT_DONE
    if finished and not quiet:
        pronoun = "it" if len(finished) == 1 else "them"
        echo(
            f"finished before, so skipped: {', '.join(job.name for job in finished)} (--again evaluates {pronoun} anew)"
        )


def _conclude(jobs: Sequence[SweepJob], page: Path, quiet: bool) -> int:
    """Compare the finished runs, list the failed ones, and return the exit code."""
    finished, failed = [job for job in jobs if job.code == 0], [job for job in jobs if job.code != 0]
    compared = True
    if len(finished) > 1:
        try:
            compare_folders([job.config.folder for job in finished], page, quiet=quiet)
        except UserError as error:
            warn(f"warning: no comparison: {error}")
            compared = False
    elif not quiet:
        echo("no comparison: it needs two finished runs or more")
    echo(f"{len(finished)} of {len(jobs)} runs are done")
    for job in failed:
        warn(f"failed: {job.name}: exit code {job.code}: {job.last_line}; {job.log} has the rest")
    return EXIT_DONE if compared and not failed else EXIT_PARTLY_DONE


if __name__ == "__main__":
    raise SystemExit(main())
