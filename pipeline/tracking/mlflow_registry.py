"""Versions of MLflow's registered models: the alias of the best one, and what their pages say."""

import json
import logging
from typing import TYPE_CHECKING

from pipeline.tracking.mlflow_run import MlflowRun

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)
ALIAS = "best"
VERSIONS_TAG = "mlflow.modelVersions"  # of a logged model; its page says by it that it is registered
SCORE_TAG, SCORE_NAME_TAG = "validation_score", "validation_score_name"  # tags of a registered model's versions


def register_version(
    run: MlflowRun, name: str, model_id: str, score: float | None, score_name: str, description: str = ""
) -> str:
    """Register a model as a version, with the alias unless another version scored higher; return its address.

    Scores of different names do not compare: the alias moves then. `description` is that of the version.
    """
    from mlflow.exceptions import MlflowException

    try:
        run.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {} if score is None else {SCORE_TAG: f"{score:.9g}", SCORE_NAME_TAG: score_name}
    version = run.client.create_model_version(
        name, f"models:/{model_id}", run_id=run.id, model_id=model_id, tags=tags, description=description or None
    )
    registered = json.dumps([{"name": name, "version": version.version}])
    run.client.set_logged_model_tags(model_id, {VERSIONS_TAG: registered})
    best = _best_version(run, name)
    if score is not None and best is not None and _outscores(best, score, score_name):
        return f"models:/{name}/{version.version}"

    # Describe the registered model by this version, unless somebody wrote it another text.
    text = run.client.get_registered_model(name).description or ""
    if description and text in ("", (best and best.description) or ""):
        run.client.update_registered_model(name, description)
    run.client.set_registered_model_alias(name, ALIAS, version.version)
    return f"models:/{name}@{ALIAS}"


def _best_version(run: MlflowRun, name: str) -> "ModelVersion | None":
    """Return the version that has the alias; None where none has it."""
    from mlflow.exceptions import MlflowException

    try:
        return run.client.get_model_version_by_alias(name, ALIAS)
    except MlflowException:
        return None


def _outscores(best: "ModelVersion", score: float, score_name: str) -> bool:
    """Whether the version that has the alias has a higher score of the same name; say so if it has one of another."""
    try:
        best_score = float(best.tags[SCORE_TAG])
    except (KeyError, ValueError):
        return False
    best_name = best.tags.get(SCORE_NAME_TAG, "a score without a name, as earlier releases gave")
    if best_name != score_name:
        logger.info(
            f"models:/{best.name}@{ALIAS} moves from version {best.version} to the new one, for their scores do not "
            f"compare ({best_name}; {score_name}); set the alias back if the earlier model is better"
        )
        return False
    return best_score > score
