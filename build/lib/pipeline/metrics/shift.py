"""The shift of a translation against its source, to a tenth of a pixel, for any two contrasts.

It is the shift that maximises the slices' mutual information (Maes et al. 1997), which does not require equal
intensities. The search starts at the shift in whole pixels at which the edges correlate best.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates, sobel, spline_filter

SMOOTHING_PX = 0.4  # sigma: with less, interpolating noise biases the shift; with more, different edges do
START_SMOOTHING_PX = 1.0  # sigma before edge detection, against noise
MARGIN_PX = 3  # around the head
LEVELS = 24  # of intensity
LEAST_RANGE = 1e-6  # of intensities: constant images with rounding errors have less
SEARCH_RADII_PX = (1.0, 1.0, 1.0, 0.5)  # to either side along each axis, by round of the search
MAX_ERROR_PX = 0.25  # largest accepted error of a median (twice its standard error), unless the shift itself is larger


def slice_shift(source: np.ndarray, translation: np.ndarray, head: np.ndarray) -> np.ndarray | None:
    """Return the shift of a translated slice against its source, (2,) in pixels along the two axes, with sign.

    Positive: further along the axis. None where there is no head, or either image is constant.

    Args:
        source, translation: (h, w), in any units.
        head: (h, w) bool, of the source.
    """
    region = binary_dilation(head, iterations=MARGIN_PX)
    smooth_source, smooth_translation = (
        gaussian_filter(image.astype(float), SMOOTHING_PX) for image in (source, translation)
    )
    if not region.any() or min(np.ptp(smooth_source[region]), np.ptp(smooth_translation)) < LEAST_RANGE:
        return None
    shift = _whole_pixels(source, translation, region)
    points, spline = np.argwhere(region).T.astype(float), spline_filter(smooth_translation, order=3)
    source_levels = _intensity_levels(smooth_source[region])
    low, high = smooth_translation.min(), smooth_translation.max()

    def information(displacement: np.ndarray) -> float:
        shifted = map_coordinates(spline, points + displacement[:, None], order=3, mode="nearest", prefilter=False)
        return _mutual_information(source_levels, _intensity_levels(shifted, low, high))

    for reach in SEARCH_RADII_PX:
        for direction in np.eye(2):
            steps = np.linspace(-reach, reach, 5)
            values = [information(shift + step * direction) for step in steps]
            shift = shift + direction * _parabola_maximum(steps, values)
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


def shift_metrics(shifts: Sequence[np.ndarray]) -> dict[str, float]:
    """Return a shift in pixels and in mm, (2,) each, as metrics by name; x is a slice's first axis."""
    pixels, millimetres = shifts
    return {
        f"shift_{axis}_{unit}": float(shift[index])
        for unit, shift in (("px", pixels), ("mm", millimetres))
        for index, axis in enumerate("xy")
    }


def _whole_pixels(source: np.ndarray, translation: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return the shift (2,) in whole pixels at which the edges near the head correlate best."""
    window = gaussian_filter(region.astype(float), 2)
    smooth = (gaussian_filter(image.astype(float), START_SMOOTHING_PX) for image in (source, translation))
    first, second = (np.fft.rfft2(np.hypot(sobel(image, 0), sobel(image, 1)) * window) for image in smooth)
    correlation = np.fft.irfft2(np.conj(first) * second, s=source.shape)
    peak, size = np.array(np.unravel_index(np.argmax(correlation), source.shape)), np.array(source.shape)
    return np.where(peak > size / 2, peak - size, peak).astype(float)


def _intensity_levels(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Return values (n,) as levels from 0 to `LEVELS` - 1, equal steps from `low` to `high` (None: of the values)."""
    low, high = (values.min(), values.max()) if low is None else (low, high)
    return np.clip((values - low) * (LEVELS / (high - low)), 0, LEVELS - 1).astype(np.intp)


def _mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mutual information of two images' levels (n,), in nats, from their smoothed joint histogram."""
    joint = np.bincount(first * LEVELS + second, minlength=LEVELS**2).reshape(LEVELS, LEVELS).astype(float)
    joint = gaussian_filter(joint, 1, mode="constant")
    joint /= joint.sum()
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    filled = joint > 0
    return float(np.sum(joint[filled] * np.log(joint[filled] / independent[filled])))


def _parabola_maximum(steps: np.ndarray, values: Sequence[float]) -> float:
    """Return where a parabola through values at equal steps is highest, within the steps."""
    curvature, slope, _ = np.polyfit(steps, values, 2)
    if curvature >= 0:
        return float(steps[np.argmax(values)])
    return float(np.clip(-slope / (2 * curvature), steps[0], steps[-1]))
