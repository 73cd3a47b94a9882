"""Errors and similarity within regions of the head: the labels of label maps, and what lies outside of them."""

from collections.abc import Mapping

import numpy as np

from pipeline.metrics.similarity import DATA_RANGE
from transforms.label_maps import LabelMap

FEWEST_VOXELS = 50  # a figure of fewer says more of noise than of a method
OUTSIDE = "outside"  # the head without the labels


def measure_regions(
    prediction: np.ndarray,
    real: np.ndarray,
    foreground: np.ndarray,
    similarity: np.ndarray | None,
    regions: Mapping[str, LabelMap],
) -> dict[str, np.ndarray]:
    """Measure MAE, PSNR and mean SSIM within each label of each region, and in the head outside of them.

    Stacks are (N, H, W) in [-1, 1] with the real target's foreground, within which alone labels count; `regions` has
    label maps of that shape by name, and stacks that are too thin have no SSIM map. Returns "volume/name/label/metric"
    -> (1,) value; the label 0 is called "outside". Labels of fewer than 50 voxels are left out, as are those beyond a
    map's first 64.
    """
    if not regions:
        return {}
    error = np.abs(np.subtract(prediction[foreground], real[foreground], dtype=np.float64))
    similarities = np.full(error.shape, np.nan) if similarity is None else similarity[foreground]
    measurements: dict[str, float] = {}
    for name, label_map in regions.items():
        indices = label_map.indices[foreground]
        counts = np.bincount(indices, minlength=len(label_map.labels) + 1)
        sums = [np.bincount(indices, weights=values) for values in (error, np.square(error), similarities)]
        for index, label in enumerate((OUTSIDE, *label_map.labels)):
            if counts[index] < FEWEST_VOXELS:
                continue
            absolute, square, similar = (totals[index] / counts[index] for totals in sums)
            measurements |= {
                f"volume/{name}/{label}/psnr": 10 * np.log10(DATA_RANGE**2 / square) if square > 0 else np.inf,
                f"volume/{name}/{label}/ssim": similar,
                f"volume/{name}/{label}/mae": absolute,
            }
    return {key: np.array([value]) for key, value in measurements.items()}
