"""Send runs to MLflow that it could not follow: `python -m pipeline.sync RUN …`."""

import argparse

from pipeline import __version__
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main

EPILOG = """exit codes: 0 all sent, 2 bad input or nothing sent, 3 some sent and some not, 1 our bug
The store is the one that MLFLOW_TRACKING_URI names, or mlflow.db in the working directory. Sending twice changes
nothing: numbers, pictures and models that the store has are left as they are."""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(
        prog="python -m pipeline.sync",
        description="Send the record of runs to MLflow after the fact: settings, every number, pictures, artifacts, "
        "models, and how the run ended.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "runs", nargs="+", type=path_argument, metavar="RUN", help="folders of runs that nobody is at work on"
    )
    command.add_argument("--version", action="version", version=__version__)
    return command


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_intermixed_args(argv)
    from pipeline.sync_job import sync_folders

    return sync_folders(arguments.runs)


if __name__ == "__main__":
    raise SystemExit(main())
