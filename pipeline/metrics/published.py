"""The metrics of published papers as their public code computes them, flaws included.

All take stacks of slices (N, H, W) in [-1, 1] and the real target's foreground, a bool mask of that shape, and return
one value per slice by "slice/region/metric". It is NaN where a slice is not measured. Only the truth decides that, so
every system is scored on the same slices. The caller chooses the slices: this project measures all slices of its test
volumes, the papers a choice of their own, so only figures of one table can be compared.
"""

import numpy as np
from skimage.metrics import structural_similarity


def measure_syndiff(prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray) -> dict[str, np.ndarray]:
    """Measure PSNR as SynDiff does (Özbey et al. 2023; icon-lab/SynDiff, `test.py`); it has no SSIM.

    Per slice, in [0, 1], prediction and truth each divided by its own maximum, cropped about the centre to 152 voxels
    left to right (our rows) and 256 the other way, with the cropped prediction's maximum as the peak. Smaller slices
    are not cropped, and not padded either, as their code would: that would add background that is exactly right.
    Slices whose cropped truth is empty are left out, as NaN is in theirs. An empty prediction, which theirs leaves out
    too, stays zeros and is scored, with peak 1.
    """
    del foreground
    predicted, actual = (_centre_crop(_by_own_maximum((stack + 1) / 2), 152, 256) for stack in (prediction, real))
    error = np.square(predicted - actual).mean(axis=(1, 2))
    with np.errstate(divide="ignore"):
        values = 20 * np.log10(_or_one(predicted.max(axis=(1, 2))) / np.sqrt(error))
    return {"slice/image/psnr": np.where(actual.max(axis=(1, 2)) > 0, values, np.nan)}


def measure_selfrdb(prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray) -> dict[str, np.ndarray]:
    """Measure PSNR and SSIM as SelfRDB does (Arslan et al. 2024; icon-lab/SelfRDB, `utils.py`).

    Per slice, in [0, 1], prediction and truth each divided by its own mean, data range the truth's maximum, SSIM with
    scikit-image's uniform 7x7 window (theirs times 100). "image" is without their optional mask; "foreground"
    multiplies both with the real target's foreground before anything else, as their mask does. Slices whose truth is
    empty there are left out; an empty prediction stays zeros and is scored.
    """
    measured = {}
    for region, mask in (("image", 1.0), ("foreground", foreground)):
        predicted, actual = (_by_own_mean(np.clip((stack + 1) / 2, 0, 1) * mask) for stack in (prediction, real))
        is_measured, peaks = actual.any(axis=(1, 2)), _or_one(actual.max(axis=(1, 2)))
        error = np.square(predicted - actual).mean(axis=(1, 2))
        with np.errstate(divide="ignore"):
            measured[f"slice/{region}/psnr"] = np.where(is_measured, 10 * np.log10(peaks**2 / error), np.nan)
        measured[f"slice/{region}/ssim"] = np.where(is_measured, _uniform_ssim(predicted, actual, peaks), np.nan)
    return measured


def measure_reggan(prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray) -> dict[str, np.ndarray]:
    """Measure MAE, PSNR and SSIM as RegGAN does (Kong et al. 2021; Kid-Liet/Reg-GAN, `trainer/CycTrainer.py`).

    Per slice: MAE and PSNR in [0, 1] where the real slice is not exactly -1 (their "not background": region
    "foreground"), PSNR 100 dB where the mean square error is below 1e-10; SSIM of the whole slice in [-1, 1] with
    scikit-image's uniform 7x7 window and data range 2. Until September 2025 their PSNR indexed `[x][y]` for `[x, y]`
    (issue 35), so also when the paper was written: it measured whole rows, those in which the first few
    foreground pixels lie. That figure is kept as region "rows".
    """
    del foreground
    by_slice = [_reggan_errors(*pair) for pair in zip(prediction, real, strict=True)]
    absolute, square, square_of_rows = np.array(by_slice, dtype=np.float64).reshape(-1, 3).T
    return {
        "slice/foreground/mae": absolute,
        "slice/foreground/psnr": _reggan_psnr(square),
        "slice/rows/psnr": _reggan_psnr(square_of_rows),
        "slice/image/ssim": _uniform_ssim(prediction, real, np.full(len(real), 2.0)),
    }


def _reggan_errors(prediction: np.ndarray, real: np.ndarray) -> tuple[float, float, float]:
    """Return MAE and MSE in [0, 1] over the foreground, and the MSE over the rows that `[x][y]` selects."""
    difference = (prediction.astype(np.float64) - real) / 2
    rows, columns = np.nonzero(real != -1)
    if len(rows) == 0:
        return np.nan, np.nan, np.nan
    foreground = difference[rows, columns]
    chained = rows[columns] if columns.max() < len(rows) else None  # `image[x][y]` is `image[x[y]]`
    square_of_rows = np.square(difference).mean(axis=1)[chained].mean() if chained is not None else np.nan
    return np.abs(foreground).mean(), np.square(foreground).mean(), square_of_rows


def _reggan_psnr(error: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(error < 1e-10, 100.0, -10 * np.log10(error))


def _by_own_maximum(stack: np.ndarray) -> np.ndarray:
    return _divided(stack, stack.max(axis=(1, 2)))


def _by_own_mean(stack: np.ndarray) -> np.ndarray:
    return _divided(stack, stack.mean(axis=(1, 2)))


def _divided(stack: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    """Divide each slice by its own divisor; an empty slice, whose divisor is 0, stays zeros."""
    return stack.astype(np.float64) / _or_one(divisors)[:, None, None]


def _or_one(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 1)


def _centre_crop(stack: np.ndarray, rows: int, columns: int) -> np.ndarray:
    top, left = max(0, stack.shape[1] - rows) // 2, max(0, stack.shape[2] - columns) // 2
    return stack[:, top : top + rows, left : left + columns]


def _uniform_ssim(prediction: np.ndarray, real: np.ndarray, data_ranges: np.ndarray) -> np.ndarray:
    """Return each slice's SSIM with scikit-image's defaults: a uniform 7x7 window and sample covariance."""
    triples = zip(real, prediction, data_ranges, strict=True)
    return np.array([structural_similarity(truth, guess, data_range=extent) for truth, guess, extent in triples])
