"""Checkpoints that are told apart by their step."""

from pathlib import Path

import torch

from pipeline.runs.checkpoint import CheckpointFolder, load_checkpoint


def state(step: int) -> dict:
    """What a checkpoint may hold, of a step."""
    return {
        "weights": torch.full((3, 4), float(step)),
        "position": {"step": step, "best_score": float("-inf")},
        "empty": None,
        "nested": {"list": [1, 2.5, "text", torch.arange(step + 1)]},
    }


def step_of(path: Path) -> int:
    """The step of a checkpoint's file."""
    return load_checkpoint(path)["position"]["step"]


def names(folder: CheckpointFolder) -> list[str]:
    """The files that are there."""
    return sorted(path.name for path in folder.folder.iterdir())
