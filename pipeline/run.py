"""Train, evaluate and report one run: `python -m pipeline.run CONFIG [key=value …]`."""

import argparse

from pipeline import __version__
from pipeline.config.load import load_config
from pipeline.config.yaml_file import config_text
from pipeline.run_config import open_run_folder
from pipeline.training.initial_weights import require_initial_weights
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main, echo
from pipeline.utils.distributed import world_from_env
from pipeline.utils.errors import EXIT_DONE


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(
        prog="python -m pipeline.run",
        description="Train, evaluate and report one run. Running the same command again continues where it stopped.",
        epilog="exit codes: 0 done, 2 bad input or configuration, 129/130/143 stopped with a checkpoint, 1 our bug",
    )
    command.add_argument(
        "config", type=path_argument, help="YAML configuration, or the name of a shipped one, such as phantom"
    )
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as training.epochs=20")
    command.add_argument("--dry-run", action="store_true", help="print the plan and touch nothing")
    command.add_argument("--verbose", action="store_true", help="with --dry-run: name every subject, one a line")
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.add_argument("--show-config", action="store_true", help="print the configuration's file and nothing else")
    command.add_argument("--version", action="version", version=__version__)
    return command


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_intermixed_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    if arguments.show_config:
        echo(config_text(arguments.config).rstrip())
        return EXIT_DONE
    if arguments.dry_run:
        if not world_from_env().is_main:
            return EXIT_DONE
        from pipeline.dry_run import print_dry_run

        print_dry_run(config, verbose=arguments.verbose)
        return EXIT_DONE
    if world_from_env().size == 1:
        folder = open_run_folder(config)  # refuses at once, not after the imports that follow, what holds another run
        require_initial_weights(config.training.start_from, folder)
    from pipeline.tracking.mlflow_settings import configure_mlflow

    configure_mlflow()  # first, for MONAI imports MLflow, which asks for its settings then
    from pipeline.train import run

    run(config, quiet=arguments.quiet)
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
