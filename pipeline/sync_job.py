"""Send run folders to MLflow, one after the other."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.load import load_config
from pipeline.runs.folder import RunFolder
from pipeline.utils.console import one_line
from pipeline.utils.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PARTLY_DONE, UserError
from pipeline.utils.files import is_folder
from pipeline.utils.paths import cwd_hint

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_sync import MlflowSync


def sync_folders(folders: Sequence[Path]) -> int:
    """Send each folder's record to MLflow and print a line each; return the exit code: 0 all, 3 some, 2 none."""
    from pipeline.tracking.mlflow_settings import configure_mlflow

    configure_mlflow()  # first, for MONAI imports MLflow, which asks for its settings then
    complete_count = sent_count = 0
    for folder in folders:
        try:
            refused = _sync(folder)
        except UserError as error:
            logger.error(one_line(f"error: {error}"))
            continue
        sent_count, complete_count = sent_count + 1, complete_count + (refused == 0)
    return EXIT_DONE if complete_count == len(folders) else EXIT_PARTLY_DONE if sent_count else EXIT_BAD_INPUT


def _sync(folder: Path) -> int:
    """Send one folder's record; return the number of items that MLflow did not take, each of which was reported."""
    if not is_folder(folder):
        raise UserError(f"{folder}: no such folder{cwd_hint(folder)}; give the folder of a run")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written, and it is to keep which MLflow run is its own; copy it first")
    from pipeline.tracking.mlflow_sync import MlflowSync

    MlflowSync(folder)  # refuses folders without a record before a lock file is written there
    with RunFolder(folder).lock():
        sender = MlflowSync(folder)
        logger.info(sender.send(_send_models))
    return sender.refused


def _send_models(sender: "MlflowSync") -> None:
    """Log the networks as the end of a run does; nothing for an unfinished run."""
    folder = RunFolder(sender.folder)
    if sender.status != "FINISHED" or not folder.config.is_file() or not folder.checkpoints.latest.is_file():
        return
    from pipeline.evaluation.logged_models import log_models, validation_score
    from pipeline.inference.model import load_model, translator_metadata
    from pipeline.inference.uncertainty_calibration import published_calibration
    from pipeline.runs.checkpoint import load_checkpoint

    # Load the configuration and the evaluated checkpoint.
    try:
        config = load_config(folder.config)
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
        {
            to: translator_metadata(config, model.statistics, to, model.stride, model.settings)
            | published_calibration(folder, model, to)
            for to in model.translators
        },
        folder.models,
        checkpoint=f"{chosen.stem}, training stopped at step {position['step']}",
        register_as=config.tracking.register_as,
        score=validation_score(chosen.stem, position["best_score"]),
    )
