"""Send runs to MLflow that it could not follow: `python -m pipeline.sync RUN …`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.config.load import load_config
from pipeline.runs.folder import RunFolder
from pipeline.utils.arguments import cwd_hint, path_argument
from pipeline.utils.console import cli_main, echo, one_line, warn
from pipeline.utils.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PARTLY_DONE, UserError
from pipeline.utils.files import is_folder, require_writable

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_sync import MlflowSync

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
    folders = parser().parse_intermixed_args(argv).runs
    from pipeline.tracking.mlflow_settings import configure_mlflow

    configure_mlflow()  # first, for MONAI imports MLflow, which asks for its settings then
    refused_counts = []  # of each folder that was sent
    for folder in folders:
        try:
            refused_counts.append(_sync(folder))
        except UserError as error:
            warn(one_line(f"error: {error}"))
    if not refused_counts:
        return EXIT_BAD_INPUT
    return EXIT_DONE if refused_counts == [0] * len(folders) else EXIT_PARTLY_DONE


def _sync(folder: Path) -> int:
    """Send one folder's record; return the number of items that MLflow did not take, each of which was reported."""
    if not is_folder(folder):
        raise UserError(f"{folder}: no such folder{cwd_hint(folder)}; give the folder of a run")
    require_writable(folder / "mlflow.json")  # which will name the folder's MLflow run
    from pipeline.tracking.mlflow_sync import MlflowSync

    MlflowSync(folder)  # refuses folders without a record before a lock file is written there
    with RunFolder(folder).lock():
        sender = MlflowSync(folder)
        echo(sender.send(_send_models))
    return sender.refused


def _send_models(sender: "MlflowSync") -> None:
    """Log the networks as the end of a run does; nothing for an unfinished run."""
    folder = RunFolder(sender.folder)
    if sender.status != "FINISHED" or not folder.config.is_file() or not folder.checkpoints.latest.is_file():
        return
    from pipeline.evaluation.logged_models import log_models
    from pipeline.inference.model import load_model
    from pipeline.inference.uncertainty_calibration import published_calibration
    from pipeline.runs.checkpoint import load_checkpoint

    # Load the configuration and the evaluated checkpoint.
    try:
        config = load_config(folder.config, warn=False)
        chosen = folder.evaluated_checkpoint(config.evaluation.checkpoint)
        model = load_model(chosen, "cpu")
        position = load_checkpoint(folder.checkpoints.latest)["position"]
    except UserError as error:
        sender.refuse("the models", str(error))
        return

    # Log one model per direction.
    log_models(
        sender,
        model,
        {to: model.metadata(to) | published_calibration(folder, model, to) for to in model.translators},
        folder.models,
        checkpoint=chosen.stem,
        step=position["step"],
        best_scores=position.get("best_scores", {}),
        register_as=config.tracking.register_as,
    )


if __name__ == "__main__":
    raise SystemExit(main())
