"""Intensities: foreground, robust scaling to [-1, 1] and its inverse, bias field correction."""

import numpy as np
from scipy import ndimage

from transforms.threads import one_simpleitk_thread

SMALLEST_RANGE = 1e-30  # of intensities that are scaled to [-1, 1]; float32's factor overflows at 1e-38


def foreground_mask(volume: np.ndarray) -> np.ndarray:
    """Return where the head (or whatever was scanned) is, filled, without the air around it.

    Voxels above the air by more than 15 % of the way to the typical tissue, without specks, gaps of a few voxels
    closed, cavities filled slice by slice along each axis: dark fluid and bone inside the head count as head.

    Args:
        volume: (X, Y, Z) finite intensities in any unit.

    Returns:
        (X, Y, Z) bool.

    Raises:
        ValueError: the volume is constant.
    """
    if volume.min() == volume.max():
        raise ValueError(f"every voxel has the same value, {volume.flat[0]:g}: there is nothing to translate in it")
    bright = volume > volume.mean(dtype=np.float64)
    air, tissue = float(np.median(volume[~bright])), float(np.median(volume[bright]))
    body = _without_specks(volume > air + 0.15 * (tissue - air))
    return _fill_cavities(_close_gaps(body, iterations=2))


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """Drop connected parts smaller than a hundredth of the largest one."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= sizes.max() / 100)[labels] & mask


def _close_gaps(mask: np.ndarray, iterations: int) -> np.ndarray:
    """Close gaps up to twice `iterations` voxels wide; the volume's border counts as air."""
    thick = [iterations if length > 2 else 0 for length in mask.shape]
    inside = tuple(slice(margin, margin + length) for margin, length in zip(thick, mask.shape, strict=True))
    cross = ndimage.generate_binary_structure(3, 1)
    for axis in (axis for axis, margin in enumerate(thick) if margin == 0):
        cross = np.take(cross, [1], axis)
    return ndimage.binary_closing(np.pad(mask, [(margin, margin) for margin in thick]), cross, iterations)[inside]


def _fill_cavities(body: np.ndarray) -> np.ndarray:
    """Fill what is enclosed within any slice of any of the three planes."""
    filled = body
    for axis in range(3):
        in_plane = [other for other in range(3) if other != axis]
        if min(body.shape[other] for other in in_plane) < 3:
            continue
        structure = np.zeros((3, 3, 3), dtype=bool)  # the four neighbours within the plane
        structure[1, 1, 1] = True
        for other in in_plane:
            structure[tuple(slice(None) if position == other else 1 for position in range(3))] = True
        air, count = ndimage.label(~filled, structure)
        outside = np.zeros(count + 1, dtype=bool)
        for other in in_plane:
            outside[air.take(0, other)] = outside[air.take(-1, other)] = True
        outside[0] = False  # the body itself, where it touches the border
        filled = ~outside[air]
    return filled


def percentile_range(volume: np.ndarray, foreground: np.ndarray, lower: float, upper: float) -> tuple[float, float]:
    """Return the intensities at two percentiles (0-100) of the foreground.

    Raises:
        ValueError: the two coincide (to 1e-30), so nothing could be scaled by them.
    """
    low, high = (float(value) for value in np.percentile(volume[foreground], [lower, upper]))
    if not high - low > SMALLEST_RANGE:
        raise ValueError(
            f"percentiles {lower:g} and {upper:g} of the foreground ({np.count_nonzero(foreground):,} voxels) are both "
            f"{low:g}, so nothing is to be seen in it; give a scan, no mask and no empty volume"
        )
    return low, high


def scale_to_unit(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] linearly to [-1, 1] and clip what lies outside; float32."""
    scaled = (volume.astype(np.float32) - np.float32(low)) * np.float32(2 / (high - low)) - 1
    return np.clip(scaled, -1, 1, out=scaled)


def scale_from_unit(scaled: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [-1, 1] linearly to [low, high]: the inverse of `scale_to_unit` where nothing was clipped; float32."""
    return (scaled.astype(np.float32) + 1) * np.float32((high - low) / 2) + np.float32(low)


def correct_bias_field(volume: np.ndarray, foreground: np.ndarray, shrink: int = 4) -> np.ndarray:
    """Divide out the smooth gain of the receive coil (N4, Tustison et al. 2010, SimpleITK's implementation).

    The field is fitted inside the foreground of a volume reduced `shrink`-fold, less along short axes (with fewer than
    some 16 voxels along an axis N4 finds no field), and applied at full resolution.
    """
    import SimpleITK as sitk

    positive = np.maximum(volume - volume.min(), 0).astype(np.float32)
    image = sitk.GetImageFromArray(positive.squeeze())  # a volume one voxel thick is a picture to N4
    mask = sitk.GetImageFromArray(foreground.astype(np.uint8).squeeze())
    factors = [max(1, min(shrink, length // 16)) for length in image.GetSize()]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50, 50, 30])
    with one_simpleitk_thread():
        n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))).reshape(volume.shape)
    return (positive / field + volume.min()).astype(np.float32)
