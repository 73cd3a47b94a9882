"""A run's `uncertainty.json`: the calibrations that its evaluation made, and the weights that they hold for."""

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.inference.model import TranslationModel, load_model
from pipeline.inference.model_address import BOX, MLFLOW_SCHEMES
from pipeline.inference.runtimes import RuntimeNetwork
from pipeline.inference.uncertainty import Calibration, UncertaintySources, has_own_spread
from pipeline.runs.folder import RunFolder, json_text
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text

logger = logging.getLogger(__name__)

FORMAT = 1
RUN, SINGLE_NETWORK = "run", "alone"  # kinds of sources: all networks of a run, or one direction's network by itself
DESCRIPTION = (
    "Absolute error to expect in [-1, 1], by what is seen of a translation: a table over source, translation (both "
    "evenly from -1 to 1) and cycle_weight * cycle error + spread_weight * spread (at 'sums'), fitted on validation "
    "subjects. 'run': with all that a run has, 'alone': with flips and shifts"
)

Calibrations = dict[str, dict[str, Calibration]]  # by target contrast, then by kind of sources


@dataclass(frozen=True)
class UncertaintyModel:
    """The sources of one direction's uncertainty, and their calibration."""

    sources: UncertaintySources
    calibration: Calibration


def uncertainty_sources(
    model: TranslationModel, to: str, others: Mapping[str, TranslationModel], kind: str = RUN
) -> UncertaintySources:
    """Return the networks from which the uncertainty of translations to a contrast is estimated.

    `others` are the run's other checkpoints, used only where the network has no spread of its own.
    """
    network = model.translators[to]
    if kind == SINGLE_NETWORK:
        return UncertaintySources(network, single_network=True)
    checkpoints = {name: other.translators[to] for name, other in others.items() if to in other.translators}
    checkpoints = {} if has_own_spread(network) else checkpoints
    return UncertaintySources(network, model.translators[model.source(to)], checkpoints)


def other_checkpoints(folder: RunFolder, model: TranslationModel) -> dict[str, TranslationModel]:
    """Return the run's best and latest checkpoints by name, with those of their networks that differ from the model's.

    A direction's best network may be its latest, where the other direction's is not. The previous checkpoint is left
    out, because its step depends on where a run was stopped. So is one that cannot be read, with a warning.
    """
    if all(has_own_spread(network) for network in model.translators.values()):
        return {}
    others, identities = {}, set(_identities(model).items())
    for path in filter(Path.is_file, (folder.checkpoints.best, folder.checkpoints.latest)):
        try:
            other = load_model(path, model.device.type)
        except UserError as error:
            logger.warning(f"{error}; not asked about the uncertainty")
            continue
        if new_identities := dict(_identities(other).items() - identities):
            others[path.stem] = replace(other, translators={to: other.translators[to] for to in sorted(new_identities)})
            identities |= new_identities.items()
    return others


def write_calibrations(
    folder: RunFolder,
    model: TranslationModel,
    others: Mapping[str, TranslationModel],
    calibrations: Calibrations,
    *,
    reason: str = "",
    test: Mapping[str, Any] | None = None,
) -> Path:
    """Write the calibrations and the identity of their weights; return the path.

    `reason` says why there are no calibrations; `test` holds the test subjects' calibration curves, in JSON's types.
    """
    content = {
        "format": FORMAT,
        "about": DESCRIPTION,
        "reason": reason,
        "weights": _identities(model),
        "others": {name: _identities(other) for name, other in others.items()},
        "directions": {
            to: {kind: calibration.to_json() for kind, calibration in kinds.items()}
            for to, kinds in calibrations.items()
        },
        "test": dict(test or {}),
    }
    atomic_text(folder.calibrations, json_text(content))
    return folder.calibrations


def load_uncertainty(uri: str, model: TranslationModel, to: str) -> UncertaintyModel:
    """Return the calibrated uncertainty of a model that was loaded from an address.

    Raises:
        UserError: the model was never calibrated, or with other weights, or is exported; with the remedy.
    """
    if isinstance(model.translators[to], RuntimeNetwork):
        raise UserError(
            f"{uri}: an exported model has no uncertainty; give the run's folder, or leave --uncertainty out"
        )
    if model.calibration:  # an MLflow model carries its own
        return _calibrated(uncertainty_sources(model, to, {}, SINGLE_NETWORK), model.calibration, uri)
    if uri.startswith(MLFLOW_SCHEMES):
        raise UserError(
            f"{uri}: was logged without a calibration of its uncertainty; evaluate its run again where that lies "
            "(pipeline.run, with evaluation.uncertainty=true), which logs it anew, give the run's folder, or leave "
            "--uncertainty out"
        )
    folders = (RunFolder(candidate) for candidate in (Path(uri), *Path(uri).absolute().parents[:2]))
    folder = next((folder for folder in folders if folder.calibrations.is_file()), None)
    if folder is None and uri == BOX:
        raise UserError(f"{uri}: the model in the box has no map of expected errors; leave --uncertainty out")
    if folder is None:
        raise UserError(
            f"{uri}: has no uncertainty.json, so its uncertainty is not calibrated; evaluate the run again (repeat its "
            "pipeline.run, with evaluation.uncertainty=true), or leave --uncertainty out"
        )
    return _read_uncertainty(folder, model, to)


def published_calibration(folder: RunFolder, model: TranslationModel, to: str) -> dict[str, Any]:
    """Return {"uncertainty": the calibration of one direction's network by itself}, for its MLflow model's metadata.

    Empty where there is none, or where it was made with other weights than the model's.
    """
    try:
        content = json.loads(folder.calibrations.read_text(encoding="utf-8"))
        calibration = content["directions"][to][SINGLE_NETWORK]
        is_of_model = content["weights"] == _identities(model)
    except (OSError, ValueError, KeyError, TypeError):  # there is no calibration, or the file is damaged
        return {}
    return {"uncertainty": calibration} if is_of_model else {}


def _read_uncertainty(folder: RunFolder, model: TranslationModel, to: str) -> UncertaintyModel:
    path = folder.calibrations
    remedy = f"evaluate it again: python -m pipeline.run {shlex.quote(str(folder.config))}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        reason, weights, identities = content["reason"], content["weights"], dict(content["others"])
        calibration = content["directions"].get(to, {}).get(RUN)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged, or of another version; {remedy}") from error
    if calibration is None:
        raise UserError(f"{path}: the run's uncertainty was not calibrated: {reason}; leave --uncertainty out")
    others = other_checkpoints(folder, model)
    if weights != _identities(model) or identities != {name: _identities(other) for name, other in others.items()}:
        raise UserError(
            f"{path}: was calibrated for other weights than these, or other checkpoints beside them; give the run's "
            f"folder as --model, or {remedy}"
        )
    return _calibrated(uncertainty_sources(model, to, others), calibration, str(path))


def _calibrated(sources: UncertaintySources, content: Mapping[str, Any], name: str) -> UncertaintyModel:
    """Return the sources with their saved calibration; `name` is that of its file or model, for messages."""
    try:
        return UncertaintyModel(sources, Calibration.from_json(content))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name}: the calibration of its uncertainty is damaged; evaluate the run again") from error


def _identities(model: TranslationModel) -> dict[str, str]:
    return {to: model.identity(to) for to in sorted(model.translators)}
