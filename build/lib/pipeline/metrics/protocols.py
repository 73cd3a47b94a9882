"""Named ways to score a predicted volume: our own, and those behind published figures.

A whole-image PSNR gains 10 log10(1/f) dB from background that is exactly right (f the head's share of the image), and
dividing prediction and truth each by its own maximum or mean hides errors of gain. A figure therefore says little
without its protocol's name. In our own protocol the prediction is never normalised on its own.

Of a published protocol the formulas are the paper's and the slices are ours (see `OUR_SLICES`): a figure can be
compared with those of other systems in the same table, and with the paper's only roughly.

All take stacks of slices (N, H, W) in [-1, 1], the real target's foreground, a bool mask of that shape, and the voxels'
spacing along the three axes, which only our own protocol uses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pipeline.metrics import names
from pipeline.metrics.published import measure_reggan, measure_selfrdb, measure_syndiff
from pipeline.metrics.similarity import (
    DATA_RANGE,
    SSIM_WINDOW,
    mae,
    mean_inside_border,
    nmi,
    nrmse,
    psnr,
    slice_ratio,
    ssim_map,
)
from pipeline.metrics.tissue_dice import interior, tissue_agreement

CUBES = (1.0, 1.0, 1.0)  # a spacing

Measured = dict[str, np.ndarray]  # "unit/region/metric" -> one value per slice, or one in all for the unit "volume"


class Summary(NamedTuple):
    """Mean, standard deviation and number of the values that are not NaN."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Protocol:
    """A named way to score.

    Attributes:
        name: Its name in the configuration.
        description: Normalisation, data range and meaning of the ±, in a sentence or two for a reader of the table.
        measure: Function of (prediction, real, foreground), each (N, H, W), and spacing_mm that returns values by
            "unit/region/metric".
        over: What mean and ± are taken over: the subjects' means, or all slices of all subjects.
        ddof: 1 for the sample standard deviation, 0 for the population's.
    """

    name: str
    description: str
    measure: Callable[..., Measured]
    over: Literal["subjects", "slices"] = "subjects"
    ddof: int = 1

    def score(
        self, prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray, spacing_mm: Sequence[float] = CUBES
    ) -> dict[str, float]:
        """Return one subject's score: by "unit/region/metric", the mean over the slices that could be measured."""
        return subject_means(self.measure(prediction, real, foreground, spacing_mm))

    def summarise(self, subjects: Sequence[Measured]) -> dict[str, Summary]:
        """Return mean, ± and number over the subjects' values from `measure`, as this protocol defines them."""
        if self.over == "subjects":
            return summarise([subject_means(measured) for measured in subjects], self.ddof)
        pooled = {key: np.concatenate([measured[key] for measured in subjects]) for key in _keys(subjects)}
        return {key: _summary(values, self.ddof) for key, values in pooled.items()}


def summarise(scores: Sequence[Mapping[str, float]], ddof: int = 1) -> dict[str, Summary]:
    """Return mean, standard deviation and number by key; NaNs are left out.

    The standard deviation is the sample's (`ddof` 1) by default, and NaN where a single value has none.
    """
    columns = {key: np.array([score[key] for score in scores if key in score]) for key in _keys(scores)}
    return {key: _summary(values, ddof) for key, values in columns.items()}


def subject_means(measured: Measured) -> dict[str, float]:
    """Return the mean of each key's values that are not NaN; NaN where there is none."""
    return {key: _summary(values, 0).mean for key, values in measured.items()}


def _keys(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _summary(values: np.ndarray, ddof: int) -> Summary:
    measured = values[~np.isnan(values)]
    count = len(measured)
    mean = float(np.mean(measured)) if count else float("nan")
    # of a single value, or where an identical slice has an infinite PSNR, the spread is undefined
    spread = float(np.std(measured, ddof=ddof)) if count > 1 and np.isfinite(mean) else float("nan")
    return Summary(mean, spread, count)


def measure_own(
    prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray, spacing_mm: Sequence[float] = CUBES
) -> Measured:
    """Measure per volume and per slice, over the whole image and inside the real target's foreground.

    Data range 2. Volume SSIM uses a 3D window and is NaN for stacks of fewer than 11 slices. Slices with an empty
    foreground are left out of all slice figures, those of the whole image too. Of volumes alone: NMI and slice ratio
    inside the foreground, and the Dice coefficients of tissue classes in the foreground's interior.
    """
    measured = _measure_unit("volume", prediction, real, foreground)
    measured |= _measure_structure(prediction, real, foreground, spacing_mm)
    per_slice = [
        _measure_unit("slice", *images)
        for images in zip(prediction, real, foreground, strict=True)
        if images[2].any()  # the slice of the foreground
    ]
    return measured | {key: np.concatenate([images[key] for images in per_slice]) for key in _keys(per_slice)}


def _measure_unit(unit: str, prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray) -> Measured:
    measurable = min(real.shape) >= SSIM_WINDOW
    similarity = ssim_map(prediction, real, DATA_RANGE) if measurable else None
    measured = {}
    for region, mask in (("image", None), ("foreground", foreground)):
        if similarity is None:
            structure = float("nan")
        else:
            structure = mean_inside_border(similarity) if mask is None else float(similarity[mask].mean())
        measured |= {
            f"{unit}/{region}/mae": mae(prediction, real, mask),
            f"{unit}/{region}/nrmse": nrmse(prediction, real, mask),
            f"{unit}/{region}/psnr": psnr(prediction, real, DATA_RANGE, mask),
            f"{unit}/{region}/ssim": structure,
        }
    return {key: np.array([value]) for key, value in measured.items()}


def _measure_structure(
    prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray, spacing_mm: Sequence[float]
) -> Measured:
    measured = {
        "volume/foreground/nmi": nmi(prediction, real, foreground),
        "volume/foreground/slice_ratio": slice_ratio(prediction, real, foreground),
    }
    tissues = tissue_agreement(prediction, real, interior(foreground, spacing_mm))
    measured |= {f"volume/interior/{metric}": value for metric, value in tissues.items()}
    return {key: np.array([value]) for key, value in measured.items()}


def _on_any_grid(measure: Callable[[np.ndarray, np.ndarray, np.ndarray], Measured]) -> Callable[..., Measured]:
    """Return a measure that takes a spacing and ignores it."""
    return lambda prediction, real, foreground, spacing_mm=CUBES: measure(prediction, real, foreground)


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
            measure=_on_any_grid(measure_syndiff),
            over="slices",
        ),
        Protocol(
            name="selfrdb",
            description="slices, prediction and truth each divided by its own mean, data range the truth's maximum; "
            "slices with an empty truth left out, an empty prediction is scored as zeros; ± is the population SD over "
            "subjects' means" + OUR_SLICES,
            measure=_on_any_grid(measure_selfrdb),
            ddof=0,
        ),
        Protocol(
            name="reggan",
            description="slices in [0, 1], MAE and PSNR where the truth is not -1 (slices that are -1 throughout left "
            "out), SSIM of the whole slice; rows/psnr is their code before September 2025; mean over all slices of all "
            "subjects; their code gives no ±, ours is the sample SD over slices" + OUR_SLICES,
            measure=_on_any_grid(measure_reggan),
            over="slices",
        ),
    )
}
