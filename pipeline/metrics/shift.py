"""The shift of a translation against its source, to a tenth of a pixel, for any two contrasts.

It is the shift that maximises the slices' mutual information (Maes et al. 1997), which does not require equal
intensities. The search starts at the shift in whole pixels at which the edges correlate best.
"""

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import (
    binary_dilation,
    find_objects,
    gaussian_filter,
    gaussian_filter1d,
    gaussian_gradient_magnitude,
    spline_filter,
)
from scipy.special import xlogy

SMOOTHING_PX = 0.4  # sigma: with less, interpolating noise biases the shift; with more, different edges do
START_SMOOTHING_PX = 1.0  # sigma before edge detection, against noise
MARGIN_PX = 3  # around the head
LEVELS = 24  # of intensity
LEAST_RANGE = 1e-6  # of intensities: constant images with rounding errors have less
SEARCH = ((1.0, 3), (1.0, 3), (1.0, 3), (0.5, 5))  # pixels to either side along each axis and steps, by round
MAX_ERROR_PX = 0.25  # largest accepted error of a median (twice its standard error), unless the shift itself is larger

_SMOOTHING = gaussian_filter1d(np.eye(LEVELS), 1, mode="constant")  # of a histogram's rows or columns


def slice_shift(source: np.ndarray, translation: np.ndarray, head: np.ndarray) -> np.ndarray | None:
    """Return the shift of a translated slice against its source, (2,) in pixels along the two axes, with sign.

    Source and translation are (h, w), each in a unit of its own. Positive: further along the axis. None where there is
    no head (of the source, (h, w) bool), or either image is constant.
    """
    region = binary_dilation(head, iterations=MARGIN_PX)
    smooth_source, smooth_translation = (
        gaussian_filter(image.astype(np.float32), SMOOTHING_PX) for image in (source, translation)
    )
    if not region.any() or min(np.ptp(smooth_source[region]), np.ptp(smooth_translation)) < LEAST_RANGE:
        return None

    # Pixels around the head, and the source's levels there.
    (box,) = find_objects(region.astype(np.uint8))
    inside = np.flatnonzero(region[box])
    levels = _levels(smooth_source[region], smooth_source[region].min(), smooth_source[region].max())
    low, high = smooth_translation.min(), smooth_translation.max()
    spline = spline_filter(smooth_translation, order=3, output=np.float32)

    # Search along one axis after the other, with the translation shifted along the other one beforehand.
    shift = _whole_pixels(source, translation, region)
    for reach, count in SEARCH:
        for axis in (0, 1):
            across = _interpolated(spline, 1 - axis, box[1 - axis], shift[1 - axis])
            steps = np.linspace(-reach, reach, count)
            values = []
            for step in steps:
                shifted = _interpolated(across, axis, box[axis], shift[axis] + step).ravel()[inside]
                values.append(_mutual_information(levels, _levels(shifted, low, high)))
            shift[axis] += _parabola_maximum(steps, values)
    return shift


def shared_shift(shifts: np.ndarray) -> np.ndarray:
    """Return the median of slices' shifts (n, 2), or NaN where they disagree too much.

    They disagree where twice the median's standard error, estimated from the median distance to it, is more than a
    quarter of a pixel and more than the shift itself. Slices of noise disagree by many pixels.
    """
    shared = np.median(shifts, axis=0)
    distance = np.median(np.hypot(*(shifts - shared).T))
    error = 1.25 * 1.48 * distance / np.sqrt(len(shifts))  # of a median, if the shifts are normally distributed
    return shared if 2 * error <= max(MAX_ERROR_PX, np.hypot(*shared)) else np.full(2, np.nan)


def _interpolated(spline: np.ndarray, axis: int, extent: slice, displacement: float) -> np.ndarray:
    """Return a cubic spline's coefficients evaluated along one axis at the indices of `extent` plus a displacement."""
    whole = int(np.floor(displacement))
    near, far = displacement - whole, whole + 1 - displacement
    weights = [far**3 / 6, 2 / 3 - near**2 + near**3 / 2, 2 / 3 - far**2 + far**3 / 2, near**3 / 6]
    wide = spline.take(np.arange(extent.start - 1, extent.stop + 2) + whole, axis, mode="clip")
    count = extent.stop - extent.start
    along = [(slice(None),) * axis + (slice(k, k + count),) for k in range(4)]
    parts = [np.float32(weight) * wide[index] for weight, index in zip(weights, along, strict=True)]
    return parts[0] + parts[1] + parts[2] + parts[3]


def _whole_pixels(source: np.ndarray, translation: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return the shift (2,) in whole pixels at which the edges near the head correlate best."""
    window = gaussian_filter(region.astype(np.float32), 2)
    first, second = (
        rfft2(gaussian_gradient_magnitude(image.astype(np.float32), START_SMOOTHING_PX) * window)
        for image in (source, translation)
    )
    correlation = irfft2(np.conj(first) * second, s=source.shape)
    peak, size = np.array(np.unravel_index(np.argmax(correlation), source.shape)), np.array(source.shape)
    return np.where(peak > size / 2, peak - size, peak).astype(float)


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values (n,) as levels from 0 to `LEVELS` - 1, equal steps from `low` to `high`."""
    return np.clip((values - low) * (LEVELS / (high - low)), 0, LEVELS - 1).astype(np.intp)


def _mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mutual information of two images' levels (n,), in nats, from their smoothed joint histogram."""
    joint = np.bincount(first * LEVELS + second, minlength=LEVELS**2).reshape(LEVELS, LEVELS)
    joint = _SMOOTHING @ joint @ _SMOOTHING.T
    joint /= joint.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    return float(xlogy(joint, joint).sum() - xlogy(rows, rows).sum() - xlogy(columns, columns).sum())


def _parabola_maximum(steps: np.ndarray, values: list[float]) -> float:
    """Return where a parabola through values at equal steps is highest, within the steps."""
    curvature, slope, _ = np.polyfit(steps, values, 2)
    if curvature >= 0:
        return float(steps[np.argmax(values)])
    return float(np.clip(-slope / (2 * curvature), steps[0], steps[-1]))
