"""Checkpoints that are told apart by their step."""

from pathlib import Path

import torch

from pipeline.runs.checkpoint import CheckpointFolder, load_checkpoint


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
