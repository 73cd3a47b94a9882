"""Whether a cycle closes by information that is hidden in the translation: a detector like `failure_detectors`'."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOISE_SD = 0.02  # of what is added to a translation before it is translated back; a hundredth of the intensity range


@dataclass(frozen=True)
class Cycled:
    """Slices of one scan, translated and back again."""

    source: np.ndarray  # (K, h, w) in [-1, 1]
    clean: np.ndarray  # (K, h, w), the translation translated back
    noisy: np.ndarray  # (K, h, w), the same with noise of SD `NOISE_SD` in the translation
    head: np.ndarray  # (K, h, w) bool, of the source


def hidden_information(scans: Sequence[Cycled]) -> dict[str, float]:
    """Return by how many dB the cycle's PSNR inside the heads falls if noise is added to the translation, by name.

    A cycle that closes by details too faint to be seen (Chu et al. 2017, "CycleGAN, a master of steganography") is
    broken by noise as faint. The noise itself, if carried through as it is, limits the PSNR to 40 dB; a better cycle
    counts as 40 dB, so that no fall is its own. It misses what is hidden more coarsely than noise of one pixel.
    Empty without a pixel.
    """
    source = np.concatenate([scan.source[scan.head] for scan in scans]).astype(np.float64)
    clean, noisy = (
        np.concatenate([images[scan.head] for scan, images in stacks])
        for stacks in ([(scan, scan.clean) for scan in scans], [(scan, scan.noisy) for scan in scans])
    )
    if len(source) == 0:
        return {}
    clean_error, noisy_error = (max(float(np.mean((image - source) ** 2)), NOISE_SD**2) for image in (clean, noisy))
    return {"hidden_information": max(0.0, float(10 * np.log10(noisy_error / clean_error)))}
