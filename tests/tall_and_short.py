"""Volumes of a cohort in which one contrast shows a neck below the head and the other does not, as in IXI."""

from pathlib import Path

import nibabel as nib
import numpy as np

SIZE = 24  # voxels of a slice's side
TALL, SHORT = 20, 12  # slices of 4 mm that show the head, from the crown down
SLICE_MM = 4.0


def write_head(path: Path, slices: int, *, above: int = 2, seed: int = 0, axis: int = 2) -> Path:
    """Write a volume whose head, a column with a brighter core, fills `slices` from `above` slices below the top down.

    Args:
        path: Of the NIfTI file.
        slices: How many show the head, down to the volume's lowest one.
        above: Slices of air above the crown.
        seed: Of the noise.
        axis: Of the body along which the head lies: 2 is from bottom to top.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    inside, core = np.hypot(x, y) < 9, np.hypot(x, y) < 5
    column = np.zeros((SIZE, SIZE, slices + above))
    column[inside, :slices] = 400
    column[core, :slices] = 800
    column += random.uniform(0, 20, column.shape)
    affine = np.diag([4.0, 4.0, SLICE_MM, 1.0])
    affine[axis, 3] = -slices * SLICE_MM  # the crowns lie in one place
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.moveaxis(column, 2, axis).astype(np.float32), affine), path)
    return path


def write_cohort(folder: Path, subjects: int = 8, **options) -> dict[str, str]:
    """Write T1 volumes that are tall and T2 ones that are short; return the patterns of `data.patterns`."""
    for number in range(subjects):
        write_head(folder / f"s{number}_T1.nii.gz", TALL, above=number % 3, seed=number, **options)
        write_head(folder / f"s{number}_T2.nii.gz", SHORT, above=2 + number % 2, seed=100 + number, **options)
    return {contrast: f"{{subject}}_{contrast}.nii.gz" for contrast in ("T1", "T2")}
