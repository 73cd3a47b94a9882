"""A rigid transform between two images as a small JSON file."""

import json
from pathlib import Path

import numpy as np

from pipeline.data.case import Case
from pipeline.utils.files import atomic_text


def write_rigid_transform(path: Path, rigid_transform: np.ndarray, cases: tuple[Case, Case]) -> None:
    """Write a (4, 4) transform as JSON, with the names of the images and its meaning."""
    about = "maps RAS millimetres of the first image to RAS millimetres of the second"
    names = [case.path.name for case in cases]
    content = {"about": about, "images": names, "matrix": rigid_transform.tolist()}
    atomic_text(path, json.dumps(content, indent=1) + "\n")


def read_rigid_transform(path: Path) -> np.ndarray:
    """Return the (4, 4) transform that `write_rigid_transform` wrote.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is absent or damaged.
    """
    rigid_transform = np.array(json.loads(path.read_text(encoding="utf-8"))["matrix"], dtype=float)
    if rigid_transform.shape != (4, 4) or not np.isfinite(rigid_transform).all():
        raise ValueError(f"{path}: not a 4x4 matrix of finite numbers")
    return rigid_transform
