"""Small volumes that the preprocessing takes for heads."""

from pathlib import Path

import nibabel as nib
import numpy as np


def write_volume(path: Path, seed: int = 0, shape=(20, 26, 12), affine: np.ndarray | None = None) -> Path:
    """Write a bright, uneven ellipsoid in noisy air; return the path."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1.1, 1.1, length) for length in shape), indexing="ij")
    head = sum(axis**2 for axis in grid) < 1
    volume = random.integers(0, 20, shape) + head * random.integers(400, 1000, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume.astype(np.int16), np.eye(4) if affine is None else affine), path)
    return path
