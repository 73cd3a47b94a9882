"""Small scans of one synthetic head in two contrasts, on any grid, for tests that need files of pairs."""

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

INTENSITIES = {"T1": (0, 500, 60, 300, 420, 90), "T2": (0, 350, 50, 380, 250, 800)}  # by tissue
SHAPE = (36, 44, 34)
AFFINE = from_matvec(np.diag([4.5, 4.6, 4.8]), [-79, -99, -79])
HALF = np.diag([2.0, 2.0, 2.0, 1.0])  # into a world where the head is half as large, which registers in an eighth
HALF_AFFINE = np.linalg.inv(HALF) @ AFFINE


def tissue_at(points_mm):
    """Return labels at world points (..., 3): 0 air, 1 scalp, 2 skull, 3 grey and 4 white matter, 5 fluid."""
    x, y, z = np.moveaxis(points_mm, -1, 0)
    radius = np.sqrt((x / 70) ** 2 + (y / 90) ** 2 + (z / 75) ** 2)
    folds = 0.04 * np.sin(x / 6 + 1) * np.sin(y / 7) * np.sin(z / 8 + 2)
    tissue = np.zeros(x.shape, int)
    for outer, label in ((1, 1), (0.93, 2), (0.86, 5)):
        tissue[radius < outer] = label
    tissue[radius + folds < 0.82] = 3
    tissue[radius + 2 * folds < 0.7] = 4
    for side in (-1, 1):  # ventricles, of unequal size so that the head is not symmetric
        tissue[((x - side * 14) / (7 + side)) ** 2 + ((y + 5) / 28) ** 2 + ((z - 8) / 13) ** 2 < 1] = 5
    tissue[(x / 12) ** 2 + ((y - 92) / 14) ** 2 + ((z + 15) / 16) ** 2 < 1] = 1  # a nose
    return tissue


def scan(contrast, *, shape=SHAPE, affine=AFFINE, world_to_head=None, noise=8.0, seed=0):
    """Return (X, Y, Z) float32 voxels of the head on a grid; `world_to_head` (4, 4) moves the head."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    points_mm = apply_affine(affine, indices)
    head_mm = points_mm if world_to_head is None else apply_affine(world_to_head, points_mm)
    volume = ndimage.gaussian_filter(np.array(INTENSITIES[contrast], float)[tissue_at(head_mm)], 0.6)
    return (volume + np.random.default_rng(seed).normal(0, noise, shape)).astype(np.float32)


def write_scan(path, voxels, affine=AFFINE):
    """Write voxels as a NIfTI file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def slanted_left_posterior_affine(shape, spacing_mm):
    """Return an affine whose first axis runs left, its second backwards, tilted by 8 degrees and centred."""
    tilt = np.deg2rad(8)
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    linear = rotation @ np.diag([-1, -1, 1]) @ np.diag(spacing_mm)
    return from_matvec(linear, -linear @ (np.array(shape) - 1) / 2)
