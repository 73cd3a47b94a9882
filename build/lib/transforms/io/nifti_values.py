"""A volume's values as finite float32, with cautions about replaced and scaled values."""

import numpy as np
from nibabel.spatialimages import SpatialImage

from transforms.io.nifti_header import VolumeError

MAX_MAGNITUDE = 1e30  # float32's maximum is 3.4e38: above this value, differences and sums of voxels overflow
MIN_SPREAD = 1e-30  # below it float32 loses digits, and the factor to [-1, 1] overflows
MIN_RELATIVE_SPREAD = 1e-4  # a contrast of 1e-4 of the offset has about 1,600 steps in float32
MAX_ERROR = 1e-3  # largest rounding error of float32, as a share of the spread
MAX_OUTLIER_SHARE = 0.01  # share of the voxels
RESCALED_MAX = 1000.0


def finite_float32(image: SpatialImage, shape: tuple[int, ...], name: str) -> tuple[np.ndarray, list[str]]:
    """Return an image's (X, Y, Z) voxels, scaling applied, as finite float32, and cautions.

    NaN and -inf become the lowest finite value (0 would be tissue in CT), +inf the highest. A few values too large
    for float32 arithmetic (`MAX_MAGNITUDE`) count as infinite; where they are many, or all differences are tiny
    (`MIN_SPREAD`), the whole volume is scaled, as only relative intensities matter to a translation.

    Raises:
        VolumeError: no voxel is finite, or all have the same value.
    """
    with np.errstate(all="ignore"):
        array = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
        cautions = []
        if _needs_float64(array):
            array, cautions = _from_float64(image.get_fdata(dtype=np.float64, caching="unchanged").reshape(shape), name)
    if array.min() == array.max():
        raise VolumeError(
            f"{name}: every voxel has the same value, {array.flat[0]:g}; nothing is to be seen in it, export it again"
        )
    return array, cautions


def _needs_float64(array: np.ndarray) -> bool:
    """Return whether float32 values are not finite, too large, or too close together."""
    low, high = float(array.min()), float(array.max())  # NaN if the array holds one
    largest, spread = max(abs(low), abs(high)), high - low
    return not (largest <= MAX_MAGNITUDE and spread >= max(MIN_SPREAD, MIN_RELATIVE_SPREAD * largest))


def _from_float64(array: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """Return float64 voxels as finite float32 values, and cautions about the changes."""
    # Replace values that are not finite, and a few too large ones.
    finite = np.isfinite(array)
    bad = array.size - int(np.count_nonzero(finite))
    if bad == array.size:
        raise VolumeError(f"{name}: every voxel is NaN or infinite; export it again")
    cautions = []
    if bad:
        counted = f"{bad:,} NaN or infinite voxels"
        cautions.append(f"{counted} were replaced by the lowest finite value (+inf by the highest)")
    is_outlier = finite & (np.abs(array) > MAX_MAGNITUDE)
    count = int(np.count_nonzero(is_outlier))
    if 0 < count <= MAX_OUTLIER_SHARE * array.size:
        cautions.append(f"{count:,} voxels beyond ±{MAX_MAGNITUDE:g} were replaced by the nearest of the others")
        finite &= ~is_outlier
    low, high = float(array[finite].min()), float(array[finite].max())
    array = np.clip(np.nan_to_num(array, nan=low, posinf=high, neginf=low), low, high)

    # Scale the volume if float32 does not suffice for it.
    if low < high and not _fits_float32(array, low, high):
        cautions.append(
            f"values of {low:.6g} to {high:.6g}, with which float32 cannot calculate, "
            f"were scaled to 0 to {RESCALED_MAX:g}"
        )
        exponent = int(np.frexp(max(abs(low), abs(high)))[1])
        array = np.ldexp(array, -exponent)  # into [-1, 1], lest the difference overflow
        array = array - array.min()
        array *= RESCALED_MAX / array.max()
    return array.astype(np.float32), cautions


def _fits_float32(array: np.ndarray, low: float, high: float) -> bool:
    """Return whether float32 represents the differences of float64 voxels between `low` and `high` without overflow."""
    if max(abs(low), abs(high)) > MAX_MAGNITUDE or high - low < MIN_SPREAD:
        return False
    return float(np.abs(array.astype(np.float32) - array).max()) <= MAX_ERROR * (high - low)
