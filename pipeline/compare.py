"""Set finished runs beside each other: `python -m pipeline.compare RUN RUN … -o compare.html`."""

import argparse
from pathlib import Path

from pipeline import __version__
from pipeline.comparison.comparison import compare_folders
from pipeline.comparison.runs import runs_of_experiment
from pipeline.config.load import load_settings
from pipeline.config.methods import PAIRED
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main
from pipeline.utils.errors import EXIT_DONE, UserError

EPILOG = """exit codes: 0 done, 2 bad input or runs whose figures do not mean the same, 1 our bug
Beside the page: its figures as .csv and .json.
--experiment takes every finished run below --runs whose own config.yaml names that experiment (tracking.experiment):
the folders know it whatever became of the MLflow store."""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(
        prog="python -m pipeline.compare",
        description="Compare finished runs on the same test subjects: every method's figures, paired tests against the "
        "best, and the same slices through all of them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("runs", nargs="*", type=path_argument, metavar="RUN", help="folders of finished runs")
    command.add_argument("--experiment", metavar="NAME", help="compare all finished runs of this MLflow experiment")
    command.add_argument("--runs", dest="runs_folder", type=path_argument, default=Path("runs"), metavar="FOLDER",
                         help="where --experiment looks for them (default: runs)")  # fmt: skip
    command.add_argument("-o", "--output", type=path_argument, default=Path("compare.html"), metavar="PAGE",
                         help="the page to write (default: compare.html)")  # fmt: skip
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.add_argument("--version", action="version", version=__version__)
    return command


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_intermixed_args(argv)
    if not arguments.runs and arguments.experiment is None:
        raise UserError("no run to compare; give the folders of two runs or more, or --experiment NAME")
    folders = list(arguments.runs)
    if arguments.experiment is not None:
        folders += runs_of_experiment(arguments.experiment, arguments.runs_folder)
    compare_folders(folders, arguments.output, load_settings, PAIRED, quiet=arguments.quiet)
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
