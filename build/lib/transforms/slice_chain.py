"""The chain from a file to normalised slices, used alike for training, evaluation and translation."""

import numpy as np
from monai.transforms import Compose

from transforms.monai_transforms import (
    BiasFieldd,
    Canonicald,
    CentreFitd,
    CropHeadd,
    LoadVolumed,
    ScaleForegroundd,
    Slicesd,
    Spacingd,
)
from transforms.slices import AXES

CHAIN_VERSION = 2  # version for new models


def slice_chain(
    *,
    axis: str,
    spacing_mm: tuple[float, float] | None,
    size: int,
    n4: bool,
    percentiles: tuple[float, float] | None,
    stride: int | None = None,
    key: str = "image",
    load: bool = True,
    version: int = 1,
    box: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> Compose:
    """Build the chain path -> stack of slices (N, H, W) in [-1, 1]; `chain.inverse` returns to the source grid.

    Args:
        axis: "axial", "coronal" or "sagittal".
        spacing_mm: (in-plane, through-plane) spacing of the slices; None keeps each volume's own.
        size: Side of the square slices, in pixels.
        n4: Whether to correct the bias field first.
        percentiles: Percentiles of the foreground that become -1 and 1; None scales by the file type's range.
        stride: None crops and pads to the square (training). Otherwise slices larger than `size` are not cropped but
            padded to a multiple of `stride` (translation, which must not cut off anatomy).
        key: Key of the image in the dictionary.
        load: Whether `key` holds a path (or a nibabel image), or already an (X, Y, Z) array with `<key>_affine` set.
        version: 2 crops volumes to the head first, so that nothing depends on its surroundings, distinguishes a
            background of one value from air, and resamples with a low-pass filter. 1 does not; it is the version of
            models whose settings name none.
        box: (3, 2) voxel bounds to crop to instead of the head's own: `<key>_box` of another volume on the same grid.
            Version 2 only.
        limits: Intensities that become -1 and 1, instead of the percentiles of what a `box` leaves of the head.

    Raises:
        ValueError: the version is unknown.
    """
    if version not in (1, CHAIN_VERSION):
        raise ValueError(
            f"preprocessing of version {version}: this release knows 1 to {CHAIN_VERSION}; use a newer one"
        )
    steps = [LoadVolumed(key)] if load else []
    steps.append(Canonicald(key))
    if version > 1:
        steps.append(CropHeadd(key, box))
    if n4:
        steps.append(BiasFieldd(key))
    if spacing_mm is not None:
        in_plane, through_plane = spacing_mm
        spacing = [in_plane] * 3
        spacing[AXES[axis]] = through_plane
        steps.append(Spacingd(key, tuple(spacing), low_pass=version > 1))
    steps += [ScaleForegroundd(key, percentiles, limits), Slicesd(key, axis), CentreFitd(key, size, stride)]
    return Compose(steps)
