"""A finished run's networks as MLflow models: logged once, however often the run's command is repeated."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from pipeline.inference.model import TranslationModel
from pipeline.tracking.mlflow_models import ALIAS, log_translator
from pipeline.tracking.tracker import Tracker
from pipeline.utils.console import echo
from pipeline.utils.files import atomic_text

Addresses = dict[str, str]  # target contrast -> where MLflow has the model


def validation_score(checkpoint: str, best_score: float) -> float | None:
    """Return a checkpoint's score in validation, as far as a run's position knows it: the best one's alone."""
    return best_score if checkpoint == "best" and math.isfinite(best_score) else None


def log_models(
    tracker: Tracker,
    model: TranslationModel,
    metadata: Mapping[str, Mapping[str, object]],
    record_path: Path,
    *,
    checkpoint: str,
    register_as: str | None,
    score: float | None,
) -> Addresses:
    """Log each direction as a model of the tracker's MLflow run, and register it where a name is given.

    Args:
        tracker: Of the run; nothing happens where MLflow is off or not answering.
        model: The networks.
        metadata: By target contrast, what `pipeline.inference.model.translator_metadata` returns.
        record_path: A JSON file that keeps what was logged; what it names already, of this run and checkpoint and with this
            metadata, is left as it is.
        checkpoint: Which checkpoint the networks are from, in words.
        register_as: The registered models' name, to which "-T1-to-T2" is appended.
        score: The checkpoint's in validation, on which it depends who has the alias `best`; None: not known.

    Returns:
        The models' addresses, as far as they are logged.
    """
    run_id = tracker.call("the models", lambda run: run.id)
    if run_id is None:
        return {}
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
    identity = {"run": run_id, "checkpoint": checkpoint, "register_as": register_as, "metadata": digest}
    logged = _models_in_record(record_path, identity)
    for to in model.translators:
        if to in logged:
            continue
        name = f"{next(contrast for contrast in model.contrasts if contrast != to)}-to-{to}"
        address = log_translator(
            tracker,
            model.translators[to],
            name=name,
            stride=model.stride,
            metadata=metadata[to],
            register_as=f"{register_as}-{name}" if register_as else None,
            score=score,
        )
        if address and address.startswith("models:") and not address.endswith(f"@{ALIAS}"):
            echo(f"registered as {address}; @{ALIAS} stays with a version that scored higher in validation")
        if address:
            logged[to] = address
            atomic_text(record_path, json.dumps({**identity, "models": logged}, indent=1, ensure_ascii=False) + "\n")
    return logged


def _models_in_record(record_path: Path, identity: Mapping[str, object]) -> Addresses:
    """Return the models of exactly this run, checkpoint and metadata that the note names."""
    try:
        content = json.loads(record_path.read_text(encoding="utf-8"))
        models = dict(content.pop("models"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there yet, or damaged
        return {}
    return models if content == identity else {}
