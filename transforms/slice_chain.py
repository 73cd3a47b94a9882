"""The chain from a file to normalised slices, used alike for training, evaluation and translation."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.slices import AXES

if TYPE_CHECKING:
    from monai.transforms import Compose

CHAIN_VERSION = 2  # version for new models


@dataclass(frozen=True)
class PreprocessSettings:
    """How volumes become slices: what the caches' keys and the checkpoints name.

    Version 2 crops volumes to the head first, so that nothing depends on its surroundings, distinguishes a background
    of one value from air, and resamples with a low-pass filter. Version 1, of settings that name none, does not.
    """

    axis: str  # "axial", "coronal" or "sagittal"
    spacing_mm: tuple[float, float] | None  # in-plane and through-plane; None keeps each volume's own
    size: int  # side of the square slices, in pixels
    n4: bool  # whether to correct the bias field first
    percentiles: tuple[float, float] | None  # of the foreground, that become -1 and 1; None: the file type's range
    version: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the settings in JSON's types, without version 1."""
        content = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        if self.version == 1:
            del content["version"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "PreprocessSettings":
        """Return the settings that `to_json` gave; raises TypeError where a key is missing or unknown."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**values)


def slice_chain(
    settings: PreprocessSettings,
    *,
    stride: int | None = None,
    key: str = "image",
    load: bool = True,
    box: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> "Compose":
    """Build the chain path -> stack of slices (N, H, W) in [-1, 1]; `chain.inverse` returns to the source grid.

    Args:
        settings: The settings of training.
        stride: None crops and pads to the square (training). Otherwise slices larger than `size` are not cropped but
            padded to a multiple of `stride` (translation, which must not cut off anatomy).
        key: Key of the image in the dictionary.
        load: Whether `key` holds a path (or a nibabel image), or already an (X, Y, Z) array with `<key>_affine` set.
        box: (3, 2) voxel bounds to crop to instead of the head's own: `<key>_box` of another volume on the same grid.
            Version 2 only.
        limits: Intensities that become -1 and 1, instead of the percentiles of what a `box` leaves of the head.

    Raises:
        ValueError: the version is unknown.
    """
    from monai.transforms import Compose, MapTransform  # here, so that settings are read without waiting for MONAI

    from transforms import monai_transforms

    if settings.version not in (1, CHAIN_VERSION):
        raise ValueError(
            f"preprocessing of version {settings.version}: this release knows 1 to {CHAIN_VERSION}; use a newer one"
        )
    steps: list[MapTransform] = [monai_transforms.LoadVolumed(key)] if load else []
    steps.append(monai_transforms.Canonicald(key))
    if settings.version > 1:
        steps.append(monai_transforms.CropHeadd(key, box))
    if settings.n4:
        steps.append(monai_transforms.BiasFieldd(key))
    if settings.spacing_mm is not None:
        in_plane, through_plane = settings.spacing_mm
        spacing = [in_plane] * 3
        spacing[AXES[settings.axis]] = through_plane
        steps.append(monai_transforms.Spacingd(key, spacing, low_pass=settings.version > 1))
    steps.append(monai_transforms.ScaleForegroundd(key, settings.percentiles, limits))
    steps += [monai_transforms.Slicesd(key, settings.axis), monai_transforms.CentreFitd(key, settings.size, stride)]
    return Compose(steps)
