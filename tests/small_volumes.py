"""Small volumes that the preprocessing takes for heads."""

from pathlib import Path

import nibabel as nib
import numpy as np


def ellipsoid(shape=(20, 26, 12), seed: int = 0, darkest: int = 0) -> np.ndarray:
    """A bright, uneven ellipsoid in noisy air."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1.1, 1.1, length) for length in shape), indexing="ij")
    head = sum(axis**2 for axis in grid) < 1
    return (random.integers(darkest, 20, shape) + head * random.integers(400, 1000, shape)).astype(np.int16)


def write_volume(path: Path, seed: int = 0, shape=(20, 26, 12), affine: np.ndarray | None = None) -> Path:
    """Write an `ellipsoid`; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(ellipsoid(shape, seed), np.eye(4) if affine is None else affine), path)
    return path
