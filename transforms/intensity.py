"""Intensities: foreground, robust scaling to [-1, 1] and its inverse, and bias field correction."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from transforms.head_mask import HEAD_THRESHOLD, filled_mask

SHRINK = 4  # largest factor by which N4 reduces a volume along an axis
MIN_RANGE = 1e-30  # smallest range of intensities to scale; below 1e-38 the float32 factor overflows


def foreground_mask(volume: np.ndarray) -> np.ndarray:
    """Return the mask of the head (or whatever was scanned), filled, without the air around it.

    Voxels brighter than 15 % of the way from air to typical tissue, without specks, with gaps of a few voxels closed
    and cavities filled slice by slice along each axis, so that dark fluid and bone inside the head count as head.
    Intensities may have any unit; ValueError: they are all the same.
    """
    if volume.min() == volume.max():
        raise ValueError(f"every voxel has the same value, {volume.flat[0]:g}: there is nothing to translate in it")
    is_dark = volume <= volume.mean(dtype=np.float64)
    air, tissue = (float(np.median(volume[mask], overwrite_input=True)) for mask in (is_dark, ~is_dark))
    return filled_mask(volume > air + HEAD_THRESHOLD * (tissue - air))


def percentile_range(volume: np.ndarray, foreground: np.ndarray, lower: float, upper: float) -> tuple[float, float]:
    """Return the intensities at two percentiles (0-100) of the foreground.

    ValueError: the foreground is empty, or the two coincide (to 1e-30), so that they define no scale.
    """
    if not foreground.any():
        raise ValueError(
            "no head is to be seen in it, for its foreground is empty; give a scan, no mask and no empty volume"
        )
    low, high = np.percentile(volume[foreground], [lower, upper], overwrite_input=True).tolist()
    if not high - low > MIN_RANGE:
        raise ValueError(
            f"percentiles {lower:g} and {upper:g} of the foreground ({np.count_nonzero(foreground):,} voxels) are both "
            f"{low:g}, so nothing is to be seen in it; give a scan, no mask and no empty volume"
        )
    return low, high


def scale_to_unit(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] linearly to [-1, 1] and clip values outside; float32."""
    scaled = volume.astype(np.float32)  # one copy, changed in place: allocation costs more than arithmetic
    scaled -= np.float32(low)
    scaled *= np.float32(2 / (high - low))
    scaled -= 1
    return np.clip(scaled, -1, 1, out=scaled)


def scale_from_unit(scaled: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [-1, 1] linearly to [low, high]: the inverse of `scale_to_unit` where nothing was clipped; float32."""
    return (scaled.astype(np.float32) + 1) * np.float32((high - low) / 2) + np.float32(low)


def correct_bias_field(volume: np.ndarray, foreground: np.ndarray, blank: np.ndarray | None = None) -> np.ndarray:
    """Divide out the smooth gain of the receive coil (N4, Tustison et al. 2010, SimpleITK's implementation).

    The field is fitted inside the foreground of a volume reduced by `SHRINK`, less along short axes (with fewer than
    about 16 voxels along an axis N4 finds no field), and applied at full resolution.

    All arrays are (X, Y, Z); the lowest intensity counts as no signal. `blank` voxels have no measurement: they are
    left out of the fit and of the lowest intensity, and stay unchanged.
    """
    import SimpleITK as sitk

    # Shift intensities to start at 0, as N4 takes their logarithm.
    lowest = volume.min() if blank is None else volume[~blank].min()
    positive = np.maximum(volume - lowest, 0).astype(np.float32)
    if blank is not None:
        foreground = foreground & ~blank

    # Fit the field to a reduced volume.
    image = sitk.GetImageFromArray(positive.squeeze())  # N4 needs a 2D image of a volume one voxel thick
    mask = sitk.GetImageFromArray(foreground.astype(np.uint8).squeeze())
    factors = [max(1, min(SHRINK, length // 16)) for length in image.GetSize()]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50, 50, 30])
    with one_simpleitk_thread():
        n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))

    # Divide by the field at full resolution.
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))).reshape(volume.shape)
    corrected = (positive / field + lowest).astype(np.float32)
    return corrected if blank is None else np.where(blank, volume, corrected)


@contextmanager
def one_simpleitk_thread() -> Iterator[None]:
    """Limit SimpleITK to one thread, so that sums have a fixed order and the same bits on any number of cores.

    A filter's own setting does not reach the filters inside N4 or a registration's metric; the global one does.
    """
    import SimpleITK as sitk

    previous_count = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(previous_count)
