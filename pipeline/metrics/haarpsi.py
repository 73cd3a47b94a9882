"""HaarPSI of slices, a perceptual similarity: how alike edges are, weighted by where there are any.

Its libraries (piq, torchmetrics for its kin LPIPS) need torchvision, of the very build of torch; so it is written here,
from the paper.
"""

import numpy as np
import torch
from torch.nn import functional

_SMALLEST = 16  # pixels along each side
_SCALES = (2, 4, 8)  # pixels of a Haar wavelet; edges of the first two are compared, those of the last are the weights
_CONSTANT, _STEEPNESS = 30.0, 4.2  # the paper's C, for intensities in [0, 255], as the authors' code has it, and alpha


def mean_haarpsi(prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray) -> float:
    """Return the mean HaarPSI of the slices (N, H, W) that show foreground, whole slices, without those that have none.

    NaN where slices are below 16 pixels, or none has a value.
    """
    shown = foreground.any(axis=(1, 2))
    if min(real.shape[1:]) < _SMALLEST:
        return float("nan")
    values = haarpsi(prediction[shown], real[shown])
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def haarpsi(prediction: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the HaarPSI of each slice, (N,) float32, from 0 to 1 for slices that are alike; NaN where both are all -1.

    Reisenhofer, Bosse, Kutyniok and Wiegand (2018), "A Haar wavelet-based perceptual similarity index for image quality
    assessment", equations 10 to 13, for grey images, which are halved first, as the authors do. Edges count, of both
    images, so uniform air does not, and a halo in it does. Slices are (N, H, W) in [-1, 1], H and W at least 16.
    """
    edges, real_edges = (_edges(slices) for slices in (prediction, real))
    weights = torch.maximum(edges[:, 2], real_edges[:, 2])  # (N, 2, H, W): of horizontal and of vertical edges
    compared, real_compared = edges[:, :2], real_edges[:, :2]
    similarity = (2 * compared * real_compared + _CONSTANT) / (compared**2 + real_compared**2 + _CONSTANT)
    squashed = torch.sigmoid(_STEEPNESS * similarity.mean(dim=1))
    axes = (1, 2, 3)
    mean = (squashed * weights).sum(axes) / weights.sum(axes)
    return (torch.logit(mean) / _STEEPNESS).square().clamp(max=1).numpy()


def _edges(slices: np.ndarray) -> torch.Tensor:
    """Return the magnitudes (N, scale, orientation, H/2, W/2) of a stack's Haar wavelets."""
    grey = torch.from_numpy((np.asarray(slices, dtype=np.float32) + 1) * 127.5)[:, None]
    odd = max(grey.shape[-1] % 2, grey.shape[-2] % 2)
    halved = functional.avg_pool2d(functional.pad(grey, (0, odd, 0, odd)), 2)
    magnitudes = []
    for size in _SCALES:
        wavelet = torch.full((size, size), 1 / size)
        wavelet[size // 2 :] *= -1
        before, after = size // 2 - 1, size // 2
        surrounded = functional.pad(halved, (before, after, before, after))
        magnitudes.append(functional.conv2d(surrounded, torch.stack([wavelet, wavelet.T])[:, None]).abs())
    return torch.stack(magnitudes, dim=1)
