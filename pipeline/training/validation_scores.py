"""What translations score in validation, and what chooses the best of them."""

from collections.abc import Mapping

import numpy as np

from pipeline.metrics.similarity import DATA_RANGE, psnr, ssim
from pipeline.training.fixed_slices import FixedSlices

SSIM_WEIGHT = 10.0  # dB for each unit of SSIM, in what chooses the best translators


def direction_score(metrics: Mapping[str, float], direction: str) -> float:
    """Return what chooses the best translator of a direction: PSNR [dB] + 10 SSIM; without pairs, minus an error.

    That is the sum of cycle error and intensity distance. PSNR alone can rise while detail is lost, and of SSIM alone
    a copy of the input already has a fair share: a tenth of SSIM counts as much as a decibel.

    Args:
        metrics: Those of `Validation.scores`.
        direction: Such as "T1_to_T2".
    """
    prefix = f"validation/{direction}"
    if f"{prefix}/psnr" in metrics:
        return _paired_score(metrics[f"{prefix}/psnr"], metrics[f"{prefix}/ssim"])
    return -(metrics[f"{prefix}/cycle_error"] + metrics[f"{prefix}/intensity_distance"])


def score_name(score: float) -> str:
    """Return what a `direction_score` measures, by its sign; scores of different names do not compare."""
    return "minus cycle error and intensity distance" if score < 0 else f"PSNR [dB] + {SSIM_WEIGHT:g} SSIM"


def scan_score(fixed: FixedSlices, translated: np.ndarray) -> float:
    """Return the `direction_score` of one scan with a real target."""
    assert fixed.real is not None
    return _paired_score(**scan_similarity(fixed.unpadded(translated), fixed.real, fixed.foreground))


def _paired_score(psnr: float, ssim: float) -> float:
    return psnr + SSIM_WEIGHT * ssim


def scan_similarity(prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray) -> dict[str, float]:
    """Return PSNR over the foreground of all slices, and the mean of the slices' 2D SSIM there."""
    ssims = [ssim(*arrays[:2], DATA_RANGE, arrays[2]) for arrays in zip(prediction, real, foreground, strict=True)]
    return {"psnr": psnr(prediction, real, DATA_RANGE, foreground), "ssim": float(np.mean(ssims))}
