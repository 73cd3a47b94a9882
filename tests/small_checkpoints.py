"""Checkpoints that are told apart by their step, and those of whole models that were never trained."""

from pathlib import Path

import torch

from pipeline.config.schema import Config
from pipeline.data.statistics import ContrastStatistics
from pipeline.engines.builders import build_translators
from pipeline.runs.checkpoint import FORMAT, CheckpointFolder, load_checkpoint


def state(step: int) -> dict:
    """What a checkpoint may hold, of a step."""
    return {
        "weights": torch.full((3, 4), float(step)),
        "position": {"step": step, "best_score": float("-inf")},
        "translators": {to: {"weight": torch.full((2,), float(step))} for to in ("T1", "T2")},
        "empty": None,
        "nested": {"list": [1, 2.5, "text", torch.arange(step + 1)]},
    }


def step_of(path: Path) -> int:
    """The step of a checkpoint's file."""
    return load_checkpoint(path)["position"]["step"]


def translators_of(path: Path) -> dict[str, float]:
    """The step of each translator of a checkpoint's file."""
    return {to: float(state["weight"][0]) for to, state in load_checkpoint(path)["translators"].items()}


def names(folder: CheckpointFolder) -> list[str]:
    """The files that are there."""
    return sorted(path.name for path in folder.folder.iterdir())


def untrained_model(path: Path, sections: dict, *, weights_sd: float | None = None, **more) -> Path:
    """Write the checkpoint of a model that a configuration describes; return the path.

    Weights are drawn anew with an SD where one is given, for new networks may change nothing.
    """
    config = Config.model_validate({"name": "trial", "data": {"source": "phantom"}, **sections})
    torch.manual_seed(0)
    translators = build_translators(config)
    for values in (values for network in translators.values() for values in network.parameters()):
        if weights_sd is not None and values.ndim > 1:
            torch.nn.init.normal_(values, 0.0, weights_sd)
    content = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "facts": {name: ContrastStatistics(0.0, 1000.0, integer=True).to_json() for name in config.contrasts},
        "translators": {to: network.state_dict() for to, network in translators.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content | more, path)
    return path
