"""What a run puts on record: its inputs for MLflow, and run.json, which `pipeline.compare` shows with its scores."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline import __version__
from pipeline.engines.base import Engine
from pipeline.runs.folder import RunFolder, json_text
from pipeline.runs.prepare import PreparedData
from pipeline.tracking.tracker import Tracker
from pipeline.training.schedule import TrainerState
from pipeline.utils.distributed import world_from_env
from pipeline.utils.files import atomic_text

# Keys of the machine that trained; a later evaluation may run on another:
MACHINE = ("device", "machine", "threads", "processes", "precision", "version", "torch")


def write_run_record(
    path: Path,
    engine: Engine,
    position: TrainerState,
    *,
    method: str,
    batch_size: int,
    precision: str,
    configuration: str,
    warnings: Sequence[str] = (),
    history: Mapping[str, object] | None = None,
) -> None:
    """Write steps, seconds, numbers of parameters and the machine: the last step of a run, which marks it as finished.

    `seconds` counts the training steps of all sessions of the run, without loading, validation and pictures.
    `translator_parameters` counts the weights that default translations of both directions use, shared ones once; not
    MUNIT's style encoders, which only a reference style needs. `parameters` counts the whole of each trained network.
    The machine is the one that trained last; a later evaluation elsewhere does not change it. `configuration` is the
    fingerprint that `pipeline.run_config.is_finished` reads, and `warnings` are those that still stood at the end of
    training. The keys of `pipeline.training.resume` are added.
    """
    seconds = round(position.seconds, 3)
    # The weights that a default translation uses are all, unless the network names them.
    translating = [
        getattr(network, "translating_parameters", network.parameters)() for network in engine.translators().values()
    ]
    content = {
        "method": method,
        "steps": position.step,
        "bad_steps": position.bad_steps,
        "batch_size": batch_size,
        "seconds": seconds,
        "seconds_per_step": position.seconds / position.step if position.step else None,
        "translator_parameters": _count_weights(translating),
        "parameters": {name: _count_weights([network.parameters()]) for name, network in engine.networks().items()},
        "device": torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else engine.device.type,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "processes": world_from_env().size,
        "precision": precision,
        "version": __version__,
        "torch": torch.__version__,
        "warnings": list(warnings),
        "configuration": configuration,
        **(history or {}),
    }
    previous_record = _read_record(path)
    if (previous_record.get("steps"), previous_record.get("seconds")) == (position.step, seconds):
        content |= {key: previous_record[key] for key in MACHINE if key in previous_record}
    atomic_text(path, json_text(content))


def mark_unfinished(path: Path, *, trains: bool = False) -> None:
    """Mark a run as unfinished in its record, for a part of it is about to be repeated.

    Args:
        path: Path of the record; if it does not exist, it is made only where there are scores to call outdated.
        trains: Whether the networks will change, so that the run's scores are outdated.
    """
    previous_record = _read_record(path)
    outdates = trains and (bool(previous_record) or path.with_name("scores.json").exists())
    if previous_record.pop("configuration", None) is not None or outdates:
        atomic_text(path, json_text({**previous_record, **({"scores_outdated": True} if outdates else {})}))


def _read_record(path: Path) -> dict[str, Any]:
    """Return the record; empty if it does not exist or cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _count_weights(groups: Iterable[Iterable[nn.Parameter]]) -> int:
    """Return the number of weights; those in several groups count once."""
    return sum(weight.numel() for weight in {*chain.from_iterable(groups)})


def log_inputs(tracker: Tracker, folder: RunFolder, prepared: PreparedData, source: str) -> None:
    """Log configuration, split and the datasets of training, validation and test; `source` is the data's folder."""
    for path in (folder.config, folder.split, folder.coverage):
        if path.exists():
            tracker.log_artifact(path)
    for contrast, entries in prepared.stored.items():
        statistics = prepared.statistics[contrast]
        profile = {"slices": statistics.slices, "low": statistics.low, "high": statistics.high}
        tracker.log_dataset(contrast, "train", source, [entry.case.name for entry in entries], profile)
    if prepared.pairs:
        case_names = [case.name for pair in prepared.pairs for case in pair.cases]
        tracker.log_dataset("pairs", "train", source, case_names, {"slices": prepared.paired_slices})
    for subset in ("validation", "test"):
        tracker.log_dataset(subset, subset, source, [case.name for case in getattr(prepared.split, subset)])
