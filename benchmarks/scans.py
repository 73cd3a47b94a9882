"""A scan of IXI's size to measure with: the phantom's head on IXI's grid, 256 × 256 × 150 int16 voxels, stored PSR."""

from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from pipeline.data.sources.phantom import phantom_cases

SHAPE = (150, 256, 256)  # along R, A, S
SPACING_MM = (1.2, 0.9375, 0.9375)
BRIGHTEST = 1500.0
PHANTOM_MM = 1.0  # of the head that is resampled to that grid
NOISE = 0.005  # of the brightest voxel: Rician, in the air too, or gzip would have little to do


def ixi_size_volume(folder: Path, contrast: str = "T1") -> Path:
    """Write the volume, unless it exists, and return its path."""
    path = folder / f"ixi_size_{contrast}.nii.gz"
    if path.exists():
        return path
    options = {"subjects": 1, "spacing_mm": PHANTOM_MM, "seed": 0, "processes": 1, "quiet": True}
    [case] = phantom_cases(folder / "phantom", [contrast], **options)
    head = nibabel.load(case.path).get_fdata(dtype=np.float32)
    head = ndimage.zoom(head, np.divide(SHAPE, head.shape), order=1) * (BRIGHTEST / head.max())
    random = np.random.default_rng(0)
    real, imaginary = (random.normal(0, NOISE * BRIGHTEST, SHAPE) for _ in range(2))
    voxels = np.hypot(head + real, imaginary).astype(np.int16)
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2] = -SPACING_MM[1], SPACING_MM[2], SPACING_MM[0]  # P, S, R
    affine[:, 3] = -90, 120, -120, 1
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels.transpose(1, 2, 0)[::-1]), affine), path)
    return path
