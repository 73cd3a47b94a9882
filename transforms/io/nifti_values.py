"""A volume's values as finite float32, and what had to be done for it."""

import numpy as np
from nibabel.spatialimages import SpatialImage

from transforms.io.nifti_header import VolumeError

LARGEST = 1e30  # float32 ends at 3.4e38: beyond this, differences and sums of voxels overflow
SMALLEST_SPREAD = 1e-30  # below it float32 loses digits, and the factor to [-1, 1] overflows
LEAST_RELATIVE_SPREAD = 1e-4  # a contrast of 1e-4 of the offset has some 1,600 steps in float32
LARGEST_ERROR = 1e-3  # of the spread, by rounding to float32
MOST_OUTLIERS = 0.01  # share of the voxels
RESCALED_TO = 1000.0


def finite_float32(image: SpatialImage, shape: tuple[int, ...], name: str) -> tuple[np.ndarray, list[str]]:
    """Return an image's (X, Y, Z) voxels, scaling applied, as finite float32, and what of them is doubtful.

    NaN and -inf become the lowest finite value (0 would be tissue in CT), +inf the highest. Values with which float32
    cannot calculate (`LARGEST`) count as infinite where they are few; otherwise, and where all differences are tiny
    (`SMALLEST_SPREAD`), the whole volume is scaled, for only relative intensities matter to a translation.

    Raises:
        VolumeError: no voxel is finite, or all have the same value.
    """
    with np.errstate(all="ignore"):
        array = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
        doubts = []
        if _is_doubtful(array):
            array, doubts = _from_float64(image.get_fdata(dtype=np.float64, caching="unchanged").reshape(shape), name)
    if array.min() == array.max():
        raise VolumeError(
            f"{name}: every voxel has the same value, {array.flat[0]:g}; nothing is to be seen in it, export it again"
        )
    return array, doubts


def _is_doubtful(array: np.ndarray) -> bool:
    """Whether float32 holds values that are not finite, are too large, or differ too little."""
    low, high = float(array.min()), float(array.max())  # NaN where there is one
    largest, spread = max(abs(low), abs(high)), high - low
    return not (largest <= LARGEST and spread >= max(SMALLEST_SPREAD, LEAST_RELATIVE_SPREAD * largest))


def _from_float64(array: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """Return float64 voxels as finite float32 values, and what was done."""
    finite = np.isfinite(array)
    bad = array.size - int(np.count_nonzero(finite))
    if bad == array.size:
        raise VolumeError(f"{name}: every voxel is NaN or infinite; export it again")
    doubts = []
    if bad:
        doubts.append(f"{bad:,} NaN or infinite voxels were replaced by the lowest finite value (+inf by the highest)")
    beyond = finite & (np.abs(array) > LARGEST)
    count = int(np.count_nonzero(beyond))
    if 0 < count <= MOST_OUTLIERS * array.size:
        doubts.append(f"{count:,} voxels beyond ±{LARGEST:g} were replaced by the nearest of the others")
        finite &= ~beyond
    low, high = float(array[finite].min()), float(array[finite].max())
    array = np.clip(np.nan_to_num(array, nan=low, posinf=high, neginf=low), low, high)
    if low < high and not _fits_float32(array, low, high):
        doubts.append(
            f"values of {low:.6g} to {high:.6g}, with which float32 cannot calculate, "
            f"were scaled to 0 to {RESCALED_TO:g}"
        )
        exponent = int(np.frexp(max(abs(low), abs(high)))[1])
        array = np.ldexp(array, -exponent)  # into [-1, 1], lest the difference overflow
        array = array - array.min()
        array *= RESCALED_TO / array.max()
    return array.astype(np.float32), doubts


def _fits_float32(array: np.ndarray, low: float, high: float) -> bool:
    """Whether float32 keeps the differences of float64 voxels between `low` and `high`, and can calculate with them."""
    if max(abs(low), abs(high)) > LARGEST or high - low < SMALLEST_SPREAD:
        return False
    return float(np.abs(array.astype(np.float32) - array).max()) <= LARGEST_ERROR * (high - low)
