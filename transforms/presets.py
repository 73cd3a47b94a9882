"""The chain from a file to normalised slices, used alike for training, evaluation and translation."""

from monai.transforms import Compose

from transforms.dictionary import (
    BiasFieldd,
    Canonicald,
    CentreFitd,
    LoadVolumed,
    ScaleForegroundd,
    Slicesd,
    Spacingd,
)
from transforms.slices import AXES


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
) -> Compose:
    """Build the chain path -> stack of slices (N, H, W) in [-1, 1]; `chain.inverse` leads back to the source grid.

    Args:
        axis: "axial", "coronal" or "sagittal".
        spacing_mm: (in-plane, through-plane) millimetres of the grid that is cut; None keeps each volume's own.
        size: Side of the square slices, in pixels.
        n4: Whether to correct the bias field first.
        percentiles: Of the foreground, mapped to -1 and 1; None scales by the file type's full range (2D images).
        stride: None crops and pads to the square (training). Otherwise slices larger than `size` are kept whole and
            padded to a multiple of `stride` (translation, which must not cut anatomy off).
        key: The dictionary's key.
        load: Whether `key` holds a path (or a nibabel image), or already an (X, Y, Z) array with `<key>_affine` set.
    """
    steps = [LoadVolumed(key)] if load else []
    steps.append(Canonicald(key))
    if n4:
        steps.append(BiasFieldd(key))
    if spacing_mm is not None:
        in_plane, through_plane = spacing_mm
        spacing = [in_plane] * 3
        spacing[AXES[axis]] = through_plane
        steps.append(Spacingd(key, tuple(spacing)))
    steps += [ScaleForegroundd(key, percentiles), Slicesd(key, axis), CentreFitd(key, size, stride)]
    return Compose(steps)
