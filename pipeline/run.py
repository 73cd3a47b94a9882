"""Train, evaluate and report one run: `python -m pipeline.run CONFIG [key=value …]`."""

import argparse
from collections.abc import Callable, Sequence

from pipeline import __version__
from pipeline.config.load import load_seeds
from pipeline.config.schema import Config
from pipeline.config.yaml_file import config_text
from pipeline.run_config import is_finished, open_run_folder
from pipeline.runs.folder import RunFolder
from pipeline.training.initial_weights import require_initial_weights
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main, echo
from pipeline.utils.distributed import World, world_from_env
from pipeline.utils.errors import EXIT_DONE, UserError


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(
        prog="python -m pipeline.run",
        description="Train, evaluate and report one run, or one for each of several seeds (seed=[0,1,2]). Running the "
        "same command again continues where it stopped.",
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
    configs = load_seeds(arguments.config, arguments.overrides)
    if arguments.show_config:
        echo(config_text(arguments.config).rstrip())
        return EXIT_DONE
    world = world_from_env()
    if arguments.dry_run and not world.is_main:
        return EXIT_DONE
    if len(configs) > 1:
        _require_room_for_seeds(configs, world)
    if arguments.dry_run:
        from pipeline.dry_run import print_dry_run

        for config in configs[1:]:
            open_run_folder(config)  # refuses a folder of another run
        print_dry_run(configs[0], verbose=arguments.verbose)
        if len(configs) > 1:
            names = ", ".join(config.name for config in configs[1:])
            echo(f"and {len(configs) - 1} more like it, one after the other: {names}")
        return EXIT_DONE
    for config in configs if world.size == 1 else ():
        folder = open_run_folder(config)  # refuses at once, not after the imports that follow, what holds another run
        require_initial_weights(config.training.start_from, folder)
    from pipeline.tracking.mlflow_settings import configure_mlflow

    configure_mlflow()  # first, for MONAI imports MLflow, which asks for its settings then
    from pipeline.train import run

    if len(configs) == 1:
        run(configs[0], quiet=arguments.quiet)
    else:
        _run_seeds(configs, run, quiet=arguments.quiet)
    return EXIT_DONE


def _require_room_for_seeds(configs: Sequence[Config], world: World) -> None:
    """Refuse several seeds where torchrun started several processes, or where the folder above is a run's own."""
    home = RunFolder(configs[0].folder.parent)
    if world.size > 1:
        seeds = [config.seed for config in configs]
        world.refuse(f"seed = {seeds}: must be one number for several processes; give the next when it is done")
    if home.config.exists():
        raise UserError(f"{home.path}: holds a run of one seed; choose another output for several")


def _run_seeds(configs: Sequence[Config], run: Callable[..., None], *, quiet: bool) -> None:
    """Do what is not finished of the runs, one after the other, then summarise them; the first error ends all."""
    from pipeline.comparison.seeds import summarise_seeds

    for number, config in enumerate(configs, 1):
        if is_finished(RunFolder(config.folder), config):
            echo(f"{config.name}: finished before")
            continue
        if not quiet:
            echo(f"{number}/{len(configs)} {config.name}")
        run(config, quiet=quiet)
    echo(summarise_seeds({config.seed: config.folder for config in configs}, configs[0].folder.parent))


if __name__ == "__main__":
    raise SystemExit(main())
