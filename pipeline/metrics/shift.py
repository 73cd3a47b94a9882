"""How far translations lie beside their sources, to a tenth of a pixel, in whatever contrasts the two are.

Compared are the directions of edges, not their signs or strengths: the normalised gradient fields of Haber and
Modersitzki (2006), all shifts at once by the cross-correlation of the fields' structure tensors.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, sobel

SMOOTHING_PX = 0.7  # sigma: below the grid's own resolution there is noise alone
FAINT = 0.3  # of the mean squared gradient about the head: what is fainter counts less and less as an edge
WINDOW_PX = 3  # about the head that is looked at
KNOWN_PX = 0.25  # twice the standard error that a median may have, unless the shift itself is larger


def slice_shift(source: np.ndarray, translation: np.ndarray, head: np.ndarray) -> np.ndarray | None:
    """Return how far a translated slice lies beside its source, (2,) in pixels along the two axes, with sign.

    Positive: further along the axis. The maximum of the correlation is found between pixels by a parabola along each
    axis. None where either image has no edges.

    Args:
        source, translation: (h, w), in any units.
        head: (h, w) bool, of the source.
    """
    window = gaussian_filter(binary_dilation(head, iterations=WINDOW_PX).astype(float), 2)
    before = _edge_directions(source, window)
    shift = np.zeros(2)
    for _ in range(2):  # the second time in place to a pixel: a window that lies beside the head draws towards 0
        whole = np.rint(shift).astype(int)
        after = _edge_directions(np.roll(translation, -whole, axis=(0, 1)), window)
        if before is None or after is None:
            return None
        spectra = np.conj(np.fft.rfft2(before)) * np.fft.rfft2(after)
        shift = whole + _peak(np.fft.irfft2(spectra.sum(axis=0), s=source.shape))
    return shift


def shared_shift(shifts: np.ndarray) -> np.ndarray:
    """Return the median of slices' shifts (n, 2), or NaN where they disagree too much to know it.

    That is where twice the median's standard error, estimated from the median distance to it, is more than a quarter of
    a pixel and more than the shift itself: slices of noise disagree by many pixels.
    """
    shared = np.median(shifts, axis=0)
    distance = np.median(np.hypot(*(shifts - shared).T))
    error = 1.25 * 1.48 * distance / np.sqrt(len(shifts))  # of a median, if the shifts are normally distributed
    return shared if 2 * error <= max(KNOWN_PX, np.hypot(*shared)) else np.full(2, np.nan)


def axis_names(shifts: Sequence[np.ndarray]) -> dict[str, float]:
    """Return a shift in pixels and in mm, (2,) each, by the names of its metrics: x is a slice's first axis."""
    pixels, millimetres = shifts
    return {
        f"shift_{axis}_{unit}": float(shift[index])
        for unit, shift in (("px", pixels), ("mm", millimetres))
        for index, axis in enumerate("xy")
    }


def _edge_directions(image: np.ndarray, window: np.ndarray) -> np.ndarray | None:
    """Return the three components (3, h, w) of the gradient's normalised structure tensor; None without any edge.

    The inner product of two such tensors is the squared cosine between the edges, which neither sign nor contrast
    changes.
    """
    smooth = gaussian_filter(image.astype(float), SMOOTHING_PX)
    first, second = sobel(smooth, 0), sobel(smooth, 1)
    squares = first**2 + second**2
    usual = np.average(squares, weights=window) if window.any() else 0.0
    if usual == 0:
        return None
    tensor = np.stack([first**2, np.sqrt(2) * first * second, second**2]) / (squares + FAINT * usual)
    mean = np.average(tensor, axis=(1, 2), weights=np.broadcast_to(window, tensor.shape))
    return (tensor - mean[:, None, None]) * window  # about their mean, or the windows themselves would correlate


def _peak(correlation: np.ndarray) -> np.ndarray:
    """Return where a periodic correlation (h, w) is highest, (2,) in pixels from -size / 2 to size / 2."""
    highest = np.unravel_index(np.argmax(correlation), correlation.shape)
    peak = np.empty(2)
    for axis, (length, place) in enumerate(zip(correlation.shape, highest, strict=True)):
        line = np.take(correlation, highest[1 - axis], axis=1 - axis)
        low, top, high = (line[(place + step) % length] for step in (-1, 0, 1))
        curvature = low - 2 * top + high
        peak[axis] = place + ((low - high) / (2 * curvature) if curvature < 0 else 0)
        if peak[axis] > length / 2:
            peak[axis] -= length
    return peak
