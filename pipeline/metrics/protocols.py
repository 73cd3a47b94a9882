"""Named ways to score a predicted volume: our own, and those behind published figures.

A whole-image PSNR gains 10 log10(1/f) dB from background that is exactly right (f the head's share of the image), and
dividing prediction and truth each by its own maximum or mean hides errors of gain. A figure therefore says little
without its protocol's name. In our own protocol the prediction is never normalised on its own.

Of a published protocol the formulas are the paper's and the slices are ours (see `OUR_SLICES`): a figure can be
compared with those of other systems in the same table, and with the paper's only roughly.

All measure stacks of slices (N, H, W) in [-1, 1] with the real target's foreground, a bool mask of that shape, and the
voxels' spacing along the three axes, which only our own protocol uses. The published ones measure as the papers' public
code does, flaws included: one value per slice, NaN where a slice is not measured. Only the truth decides that, so every
system is scored on the same slices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from skimage.metrics import structural_similarity

from pipeline.metrics import names, similarity
from pipeline.metrics.haarpsi import mean_haarpsi
from pipeline.metrics.regions import measure_regions
from pipeline.metrics.similarity import DATA_RANGE
from pipeline.metrics.tissue_dice import interior, tissue_agreement
from transforms.label_maps import LabelMap

CUBES = (1.0, 1.0, 1.0)  # a spacing
UNIFORM_WINDOW = 7  # pixels a side of scikit-image's SSIM

Measurements = dict[str, np.ndarray]  # "unit/region/metric" -> one value per slice, or one in all for the unit "volume"


class Summary(NamedTuple):
    """Mean, standard deviation and number of the values that are not NaN."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Protocol:
    """A named way to score."""

    name: str  # in the configuration
    description: str  # normalisation, data range and meaning of the ±, in a sentence or two for a reader of the table
    measure: Callable[..., Measurements]  # of (prediction, real, foreground), each (N, H, W), and spacing_mm
    # what mean and ± are taken over: the subjects' means, or all slices of all subjects
    over: Literal["subjects", "slices"] = "subjects"
    ddof: int = 1  # 1 for the sample standard deviation, 0 for the population's

    def summarise(self, subjects: Sequence[Measurements]) -> dict[str, Summary]:
        """Return mean, ± and number over the subjects' values from `measure`, as this protocol defines them."""
        if self.over == "subjects":
            return summarise([subject_means(measurements) for measurements in subjects], self.ddof)
        pooled = {key: np.concatenate([measurements[key] for measurements in subjects]) for key in _keys(subjects)}
        return {key: _summary(values, self.ddof) for key, values in pooled.items()}


def summarise(scores: Sequence[Mapping[str, float]], ddof: int = 1) -> dict[str, Summary]:
    """Return mean, standard deviation and number by key; NaNs are left out.

    The standard deviation is the sample's (`ddof` 1) by default, and NaN where a single value has none.
    """
    columns = {key: np.array([score[key] for score in scores if key in score]) for key in _keys(scores)}
    return {key: _summary(values, ddof) for key, values in columns.items()}


def subject_means(measurements: Measurements) -> dict[str, float]:
    """Return the mean of each key's values that are not NaN; NaN where there is none."""
    return {key: _summary(values, 0).mean for key, values in measurements.items()}


def _keys(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _summary(values: np.ndarray, ddof: int) -> Summary:
    numbers = values[~np.isnan(values)]
    count = len(numbers)
    mean = float(np.mean(numbers)) if count else float("nan")
    # of a single value, or where an identical slice has an infinite PSNR, the spread is undefined
    spread = float(np.std(numbers, ddof=ddof)) if count > 1 and np.isfinite(mean) else float("nan")
    return Summary(mean, spread, count)


def measure_own(
    prediction: np.ndarray,
    real: np.ndarray,
    foreground: np.ndarray,
    spacing_mm: Sequence[float] = CUBES,
    regions: Mapping[str, LabelMap] | None = None,
) -> Measurements:
    """Measure per volume and per slice, over the whole image and inside the real target's foreground.

    Data range 2. Volume SSIM uses a 3D window and is NaN for stacks of fewer than 11 slices. Slices with an empty
    foreground are left out of all slice figures, those of the whole image too. Of volumes alone: NMI, slice ratio and
    calibrated PSNR inside the foreground, HaarPSI, the Dice coefficients of tissue classes in the foreground's
    interior, and errors and similarity in each label of `regions` (name -> labels (N, H, W)).
    """
    ssim_map = similarity.possible_ssim_map(prediction, real, DATA_RANGE)
    measurements = _measure_unit("volume", prediction, real, foreground, ssim_map)
    measurements |= measure_regions(prediction, real, foreground, ssim_map, regions or {})
    structure = {
        "foreground/nmi": similarity.nmi(prediction, real, foreground),
        "foreground/slice_ratio": similarity.slice_ratio(prediction, real, foreground),
        "foreground/calibrated_psnr": similarity.calibrated_psnr(prediction, real, DATA_RANGE, foreground),
        "image/haarpsi": mean_haarpsi(prediction, real, foreground),
    }
    tissues = tissue_agreement(prediction, real, interior(foreground, spacing_mm))
    structure |= {f"interior/{metric}": value for metric, value in tissues.items()}
    measurements |= {f"volume/{name}": np.array([value]) for name, value in structure.items()}
    per_slice = [
        _measure_unit("slice", *images, similarity.possible_ssim_map(*images[:2], DATA_RANGE))
        for images in zip(prediction, real, foreground, strict=True)
        if images[2].any()  # the slice of the foreground
    ]
    return measurements | {key: np.concatenate([images[key] for images in per_slice]) for key in _keys(per_slice)}


def _measure_unit(
    unit: str, prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray, ssim_map: np.ndarray | None
) -> Measurements:
    ssims = {"image": np.nan, "foreground": np.nan}
    if ssim_map is not None:
        ssims = {"image": similarity.mean_inside_border(ssim_map), "foreground": float(ssim_map[foreground].mean())}
    measurements: dict[str, float] = {}
    for region, mask in (("image", None), ("foreground", foreground)):
        measurements |= {
            f"{unit}/{region}/mae": similarity.mae(prediction, real, mask),
            f"{unit}/{region}/nrmse": similarity.nrmse(prediction, real, mask),
            f"{unit}/{region}/psnr": similarity.psnr(prediction, real, DATA_RANGE, mask),
            f"{unit}/{region}/ssim": ssims[region],
        }
    return {key: np.array([value]) for key, value in measurements.items()}


def measure_syndiff(prediction: np.ndarray, real: np.ndarray, *_: object) -> Measurements:
    """Measure PSNR as SynDiff does (Özbey et al. 2023; icon-lab/SynDiff, `test.py`); it has no SSIM.

    Per slice, in [0, 1], prediction and truth each divided by its own maximum, cropped about the centre to 152 voxels
    left to right (our rows) and 256 the other way, with the cropped prediction's maximum as the peak. Smaller slices
    are not cropped, and not padded either, as their code would: that would add background that is exactly right.
    Slices whose cropped truth is empty are left out, as NaN is in theirs. An empty prediction, which theirs leaves out
    too, stays zeros and is scored, with peak 1.
    """
    scaled = ((stack + 1) / 2 for stack in (prediction, real))
    predicted, actual = (_centre_crop(_divided(stack, stack.max(axis=(1, 2))), 152, 256) for stack in scaled)
    error = np.square(predicted - actual).mean(axis=(1, 2))
    with np.errstate(divide="ignore"):
        values = 20 * np.log10(_or_one(predicted.max(axis=(1, 2))) / np.sqrt(error))
    return {"slice/image/psnr": np.where(actual.max(axis=(1, 2)) > 0, values, np.nan)}


def measure_selfrdb(prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray, *_: object) -> Measurements:
    """Measure PSNR and SSIM as SelfRDB does (Arslan et al. 2024; icon-lab/SelfRDB, `utils.py`).

    Per slice, in [0, 1], prediction and truth each divided by its own mean, data range the truth's maximum, SSIM with
    scikit-image's uniform 7x7 window (theirs times 100). "image" is without their optional mask; "foreground"
    multiplies both with the real target's foreground before anything else, as their mask does. Slices whose truth is
    empty there are left out; an empty prediction stays zeros and is scored.
    """
    measurements = {}
    for region, mask in (("image", 1.0), ("foreground", foreground)):
        scaled = (np.clip((stack + 1) / 2, 0, 1) * mask for stack in (prediction, real))
        predicted, actual = (_divided(stack, stack.mean(axis=(1, 2))) for stack in scaled)
        is_measured, peaks = actual.any(axis=(1, 2)), _or_one(actual.max(axis=(1, 2)))
        error = np.square(predicted - actual).mean(axis=(1, 2))
        with np.errstate(divide="ignore"):
            measurements[f"slice/{region}/psnr"] = np.where(is_measured, 10 * np.log10(peaks**2 / error), np.nan)
        measurements[f"slice/{region}/ssim"] = np.where(is_measured, _uniform_ssim(predicted, actual, peaks), np.nan)
    return measurements


def measure_reggan(prediction: np.ndarray, real: np.ndarray, *_: object) -> Measurements:
    """Measure MAE, PSNR and SSIM as RegGAN does (Kong et al. 2021; Kid-Liet/Reg-GAN, `trainer/CycTrainer.py`).

    Per slice: MAE and PSNR in [0, 1] where the real slice is not exactly -1 (their "not background": region
    "foreground"), PSNR 100 dB where the mean square error is below 1e-10; SSIM of the whole slice in [-1, 1] with
    scikit-image's uniform 7x7 window and data range 2. Until September 2025 their PSNR indexed `[x][y]` for `[x, y]`
    (issue 35), so also when the paper was written: it measured whole rows, those in which the first few
    foreground pixels lie. That figure is kept as region "rows".
    """
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


def _divided(stack: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    """Divide each slice by its own divisor; an empty slice, whose divisor is 0, stays zeros."""
    return stack.astype(np.float64) / _or_one(divisors)[:, None, None]


def _or_one(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 1)


def _centre_crop(stack: np.ndarray, rows: int, columns: int) -> np.ndarray:
    top, left = max(0, stack.shape[1] - rows) // 2, max(0, stack.shape[2] - columns) // 2
    return stack[:, top : top + rows, left : left + columns]


def _uniform_ssim(prediction: np.ndarray, real: np.ndarray, data_ranges: np.ndarray) -> np.ndarray:
    """Return each slice's SSIM with scikit-image's defaults: a uniform 7x7 window and sample covariance.

    NaN for slices with a side below the window's.
    """
    if min(real.shape[1:]) < UNIFORM_WINDOW:
        return np.full(len(real), np.nan)
    triples = zip(real, prediction, data_ranges, strict=True)
    return np.array([structural_similarity(target, image, data_range=extent) for target, image, extent in triples])


OWN = Protocol(
    name=names.OWN,
    description="intensities in [-1, 1], each scan scaled by its own percentiles, data range 2; SSIM with a Gaussian "
    "window of sigma 1.5; NMI with 64 bins, from 1 to 2, blind to inversion; Dice of dark, middle and bright tissue, "
    "k-means of each image by itself, deep inside the head; slice ratio: how much neighbouring slices differ, 1 as "
    "much as the real target's; slices without foreground left out; ± is the sample SD over subjects",
    measure=measure_own,
)

OUR_SLICES = (
    "; the formulas are those of the paper's code, the slices are not the paper's: it chose subjects and slices, here "
    "it is every slice of this run's test volumes whose truth is not empty, on this run's grid and scaling; so compare "
    "within this table, and with the paper's figures only roughly"
)

PUBLISHED = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="syndiff",
            description="slices, prediction and truth each divided by its own maximum, peak the prediction's maximum; "
            "slices with an empty truth left out, an empty prediction is scored as zeros with peak 1; mean over all "
            "slices of all subjects; their code gives no ±, ours is the sample SD over slices" + OUR_SLICES,
            measure=measure_syndiff,
            over="slices",
        ),
        Protocol(
            name="selfrdb",
            description="slices, prediction and truth each divided by its own mean, data range the truth's maximum; "
            "slices with an empty truth left out, an empty prediction is scored as zeros; ± is the population SD over "
            "subjects' means" + OUR_SLICES,
            measure=measure_selfrdb,
            ddof=0,
        ),
        Protocol(
            name="reggan",
            description="slices in [0, 1], MAE and PSNR where the truth is not -1 (slices that are -1 throughout left "
            "out), SSIM of the whole slice; rows/psnr is their code before September 2025; mean over all slices of all "
            "subjects; their code gives no ±, ours is the sample SD over slices" + OUR_SLICES,
            measure=measure_reggan,
            over="slices",
        ),
    )
}
