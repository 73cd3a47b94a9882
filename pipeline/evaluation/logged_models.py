"""A finished run's networks as MLflow models, logged once even if the run's command is repeated."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.data.case import other_contrast
from pipeline.exporting.card import model_card
from pipeline.inference.model import TranslationModel
from pipeline.inference.slice_translator import neighbours_of
from pipeline.runs.folder import json_text
from pipeline.tracking.mlflow_models import log_translator
from pipeline.tracking.mlflow_registry import ALIAS
from pipeline.tracking.mlflow_run import RunAccess
from pipeline.training.validation_scores import score_name
from pipeline.utils.files import atomic_text

logger = logging.getLogger(__name__)

Addresses = dict[str, str]  # target contrast -> where MLflow has the model


def log_models(
    tracker: RunAccess,
    model: TranslationModel,
    metadata: Mapping[str, Mapping[str, object]],
    record_path: Path,
    *,
    checkpoint: str,
    step: int,
    best_scores: Mapping[str, float],
    register_as: str | None,
) -> Addresses:
    """Log each direction as a model of the tracker's MLflow run with its card, and register it where a name is given.

    Nothing happens where MLflow is off or not answering. Returns MLflow's addresses of the models by target contrast.

    Args:
        metadata: `TranslationModel.metadata` of each direction and its calibration, by target contrast.
        record_path: A JSON file of the models that were logged; for this run, checkpoint and metadata not again.
        checkpoint, step: Name of the networks' checkpoint, and step at which training stopped.
        best_scores: Validation scores, by target contrast, of the checkpoint "best", which alone may have that alias.
        register_as: The registered models' name, to which "-T1-to-T2" is appended; None to register none.
    """
    run_id = tracker.call("the models", lambda run: run.id)
    if run_id is None:
        return {}
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
    identity = {
        "run": run_id,
        "checkpoint": f"{checkpoint}, training stopped at step {step}",
        "register_as": register_as,
        "metadata": digest,
    }
    logged = _models_in_record(record_path, identity)
    for to in model.translators:
        if to in logged:
            continue
        name, score = f"{other_contrast(model.contrasts, to)}-to-{to}", best_scores.get(to, float("nan"))
        address = log_translator(
            tracker,
            model.translators[to],
            name=name,
            stride=model.stride,
            channels=neighbours_of(model.translators[to]).channels,
            metadata=metadata[to],
            register_as=f"{register_as}-{name}" if register_as else None,
            score=score if checkpoint == "best" and math.isfinite(score) else None,
            score_name=score_name(score),
            description=model_card(model, to, evaluated_now=True),
        )
        if address and address.startswith("models:") and not address.endswith(f"@{ALIAS}"):
            logger.info(f"registered as {address}; @{ALIAS} stays with a version that scored higher in validation")
        if address:
            logged[to] = address
            atomic_text(record_path, json_text({**identity, "models": logged}))
    return logged


def _models_in_record(record_path: Path, identity: Mapping[str, object]) -> Addresses:
    """Return the recorded models of exactly this run, checkpoint and metadata."""
    if not record_path.exists():
        return {}
    content: dict[str, Any] = json.loads(record_path.read_text(encoding="utf-8"))
    models: Addresses = content.pop("models")
    return models if content == identity else {}
