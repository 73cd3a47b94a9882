"""What is in the data, before anyone trains: `python -m pipeline.explore CONFIG [key=value …]`."""

import argparse
import shlex
from pathlib import Path

from pipeline import __version__
from pipeline.config.load import load_config
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main
from pipeline.utils.errors import EXIT_DONE

EPILOG = """exit codes: 0 the page is written (it names images that cannot be read), 2 bad configuration or nothing to
read, 130/143 stopped, 1 our bug"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(
        prog="python -m pipeline.explore",
        description="Look at a configuration's data: counts, grids, intensities, outliers, duplicates, slices.",
        epilog=EPILOG,
    )
    command.add_argument("config", type=path_argument, help="YAML configuration, such as configs/phantom.yaml")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as data.folder=/scans")
    command.add_argument(
        "-o",
        "--output",
        type=path_argument,
        metavar="FOLDER",
        help="of explore.html and explore.json (default: explore/<name>)",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.add_argument("--version", action="version", version=__version__)
    return command


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_intermixed_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    from pipeline.tracking.mlflow_settings import configure_mlflow

    configure_mlflow()  # first, for MONAI imports MLflow, which asks for its settings then
    from pipeline.exploration.survey import survey

    folder = arguments.output or Path("explore") / config.name
    to_train = shlex.join(["python", "-m", "pipeline.run", str(arguments.config), *arguments.overrides])
    survey(config, folder, to_train, quiet=arguments.quiet)
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
