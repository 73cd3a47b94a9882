"""Detectors of failures of unpaired translation, from source, translation and training cohorts.

One alone uses real targets, `unturned_contrast`, and is silent where the validation subjects have none. All take slices
in [-1, 1] and the head of the *source*. Each docstring names what the detector misses; where it cannot decide it
returns NaN.

`pipeline.training.failure_checks` has the thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.stats import spearmanr

from pipeline.metrics.shift import shared_shift, slice_shift
from pipeline.metrics.similarity import intensity_distance
from transforms.slices import centre_fit, evenly_spread

SHELL = 0.25  # of the depth: scalp and skull, which may be right around an inverted brain
LAYERS = 8  # below the shell
FLAT_SD = 0.01  # SD of intensities that is as good as none; the flattest profile met, of a real T1 head, has 0.028
ALIKE_DISTANCE = 0.05  # intensity distance of two contrasts; phantom T1 and T2 are 0.31 apart, real ones 0.04 to 0.56
SHIFTED_SLICES = 12  # slices of a direction whose shift is measured; a median needs no more


@dataclass(frozen=True)
class Cohort:
    """Statistics of a contrast's training slices."""

    profile: np.ndarray  # (LAYERS,) mean intensity from under the scalp to the centre; see `depth_profile`
    spread: float  # how far slices differ; see `spread`
    quantiles: np.ndarray  # equally spaced quantiles of the foreground's intensities


@dataclass(frozen=True)
class Translated:
    """Slices of one scan and their translation."""

    source: np.ndarray  # (K, h, w) in [-1, 1]
    translation: np.ndarray  # likewise
    head: np.ndarray  # (K, h, w) bool, of the source
    layers: np.ndarray  # (K, h, w), `depth_layers` of the head
    pixel_mm: tuple[float, float]  # height and width of a pixel
    real: np.ndarray | None = None  # (K, h, w) in [-1, 1], the real target on the source's grid; None without pairs


def measure(scans: Sequence[Translated], source: Cohort, target: Cohort) -> dict[str, float]:
    """Return every detector's value by its name, over all scans of a direction, without NaNs.

    The shift's length comes with its two signed components, in pixels and in mm ("shift_x_px", …). There is at least
    one scan; `source` and `target` are the cohorts of the contrast that is translated and of the one that is made.
    """
    sources = [(scan.source, scan.head) for scan in scans]
    translations = [(scan.translation, scan.head) for scan in scans]
    profile = depth_profile([(scan.translation, scan.layers) for scan in scans])
    values = {
        "contrast_inversion": profile_agreement(profile, target.profile),
        **spatial_shift(scans),
        "identity_collapse": share_of_change(scans, source.quantiles, target.quantiles),
        "unturned_contrast": unturned_contrast(scans),
        **gain(scans, target.quantiles),
        "mode_collapse": diversity(spread(translations), spread(sources), target.spread, source.spread),
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def spread_evenly(counts: Sequence[int], number: int) -> list[tuple[int, int]]:
    """Return (scan, slice) of up to `number` slices, evenly spread over scans with so many slices each."""
    slices = [(scan, index) for scan, count in enumerate(counts) for index in range(count)]
    return [slices[position] for position in evenly_spread(len(slices), number)]


# ── contrast inversion ──────────────────────────────────────────────────────────────────────────────────────


def depth_layers(head: np.ndarray) -> np.ndarray:
    """Return for each pixel of (K, h, w) heads its layer, 0 under the scalp to LAYERS - 1 at the slice's centre.

    Layers are equal parts of the depth below the head's outline, relative to the deepest point of the slice. The outer
    quarter and the air have -1. The border of the slice counts as air.
    """
    padded = np.pad(head, ((0, 0), (1, 1), (1, 1)))
    depth = np.stack([distance_transform_edt(mask) for mask in padded])[:, 1:-1, 1:-1]
    inwards = depth / np.maximum(depth.max(axis=(1, 2), keepdims=True), 1)
    layers = np.floor((inwards - SHELL) / (1 - SHELL) * LAYERS).astype(np.int8)
    return np.where(inwards > SHELL, np.minimum(layers, LAYERS - 1), -1).astype(np.int8)


def depth_profile(stacks: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return (LAYERS,) the mean intensity of each layer over (K, h, w) slices and layers; NaN for an empty layer."""
    sums, counts = np.zeros(LAYERS), np.zeros(LAYERS)
    for slices, layers in stacks:
        inside = layers >= 0
        sums += np.bincount(layers[inside], slices[inside], LAYERS)
        counts += np.bincount(layers[inside], minlength=LAYERS)
    return np.divide(sums, counts, out=np.full(LAYERS, np.nan), where=counts > 0)


def profile_agreement(profile: np.ndarray, target: np.ndarray) -> float:
    """Return the correlation of a translation's depth profile with that of the target's cohort; negative: inverted.

    The right map from intensity to intensity is not known without pairs, and may well be a falling one; but where a
    contrast is bright is a matter of place, and that the training slices of the target show. Only the sign is to be
    trusted. It misses what keeps the mean of every layer, such as two tissues of one depth exchanged. An input merely
    brought to the target's intensities, order kept, is caught where the contrasts' own profiles are opposed (phantom,
    -0.7 to -0.8; skull-stripped brains, -0.9), and not elsewhere (whole real heads, -0.2 to 0.4).

    NaN where the target's profile is flat, or the translation's beside it: noise has some profile, too.
    """
    common = np.isfinite(profile) & np.isfinite(target)
    if common.sum() < 3 or np.std(target[common]) < FLAT_SD or np.std(profile[common]) < np.std(target[common]) / 4:
        return float("nan")
    return float(np.corrcoef(profile[common], target[common])[0, 1])


def unturned_contrast(scans: Sequence[Translated]) -> float:
    """Return how much more a translation is like its source than the real target is, from -2 to 2.

    That is the difference of two rank correlations (Spearman) with the source, over the heads' pixels. A map of
    intensities that keeps their order has 1 less the real target's, whatever its histogram: what `identity_collapse`
    takes for a change, and `contrast_inversion` sees only where the contrasts' profiles are opposed. It misses errors
    that have nothing to do with the source. NaN without real targets, or for constant images.
    """
    paired = [(scan, scan.real) for scan in scans if scan.real is not None]
    if not paired:
        return float("nan")
    source = np.concatenate([scan.source[scan.head] for scan, _ in paired])
    translation = np.concatenate([scan.translation[scan.head] for scan, _ in paired])
    real = np.concatenate([real[scan.head] for scan, real in paired])
    if len(source) < 3 or min(map(np.std, (source, translation, real))) < FLAT_SD:
        return float("nan")
    return float(spearmanr(source, translation).statistic - spearmanr(source, real).statistic)


# ── spatial shift ───────────────────────────────────────────────────────────────────────────────────────────


def spatial_shift(scans: Sequence[Translated]) -> dict[str, float]:
    """Return the shift of the translation against its source: the median over slices, along each axis.

    It is measured in `SHIFTED_SLICES` evenly spread slices; see `pipeline.metrics.shift`. Known shifts of phantom and
    real heads, between T1 and T2, inverted, blurred or noisy, are measured within 0.1 pixels; without a shift it is
    below 0.1. Real T1 and T2 scans on one grid measure 0.2, from their true shift or from different edges.

    It misses shifts through the slices' plane. Of rotations, scalings and local warps it measures only the common shift
    of the slices. It cannot tell an error from a shift that belongs to the target, such as the chemical shift of fat.

    "spatial_shift_mm" is the length; "shift_x_px" and "shift_x_mm" lie along a slice's first axis, "shift_y_px" and
    "shift_y_mm" along its second one (axial: to the right and forwards), positive where the translation lies further
    along. NaN for slices that disagree or have nothing in common.
    """
    # Measure the shift in evenly spread slices.
    shifts, pixels_mm = [], []
    for number, index in spread_evenly([len(scan.source) for scan in scans], SHIFTED_SLICES):
        scan = scans[number]
        shift = slice_shift(scan.source[index], scan.translation[index], scan.head[index])
        if shift is not None:
            shifts.append(shift)
            pixels_mm.append(scan.pixel_mm)

    # Take their common shift, in pixels and in mm.
    pixels = shared_shift(np.array(shifts)) if shifts else np.full(2, np.nan)
    millimetres = pixels * np.median(pixels_mm, axis=0) if shifts else pixels
    return {
        "spatial_shift_mm": float(np.hypot(*millimetres)),
        **{
            f"shift_{axis}_{unit}": float(value)
            for unit, shift in (("px", pixels), ("mm", millimetres))
            for axis, value in zip("xy", shift, strict=True)
        },
    }


# ── identity collapse ───────────────────────────────────────────────────────────────────────────────────────


def share_of_change(scans: Sequence[Translated], source: np.ndarray, target: np.ndarray) -> float:
    """Return the mean absolute change inside the head, as a share of the least change that a translation needs.

    The least change is the intensity distance of the two cohorts (Wasserstein-1), the smallest mean change that turns
    one histogram into the other, or half the SD of the source where that is less. A successful translation has 1 or
    more. One below 0.5 is far from the target's histogram and, within a quarter of an SD, the same as its source.

    NaN where the cohorts' intensities are alike (nearer than `ALIKE_DISTANCE`): then a copy may be right.

    `source` and `target` are equally spaced quantiles of the cohorts' foreground.
    """
    cohort_distance = intensity_distance(source, target)
    values = np.concatenate([scan.source[scan.head] for scan in scans])
    change = np.abs(np.concatenate([scan.translation[scan.head] for scan in scans]) - values)
    if cohort_distance < ALIKE_DISTANCE or len(values) == 0 or np.std(values) < FLAT_SD:
        return float("nan")
    return float(np.mean(change, dtype=np.float64) / min(cohort_distance, np.std(values, dtype=np.float64) / 2))


# ── gain ────────────────────────────────────────────────────────────────────────────────────────────────────


def gain(scans: Sequence[Translated], target: np.ndarray) -> dict[str, float]:
    """Return "gain", the ratio of the SDs of the translated heads and the target's training cohort, and
    "brightness_offset", the difference of their means, of intensities in [-1, 1].

    It compares distributions, so it needs no pair, and misses every error that keeps mean and SD. Subjects differ too:
    the mean of a head has an SD of 0.03 (phantom) to 0.13 (adults with tumours) over subjects. NaN without a pixel, and
    the ratio for a target without contrast.
    """
    values = np.concatenate([scan.translation[scan.head] for scan in scans]).astype(np.float64)
    if len(values) == 0:
        return {"gain": float("nan"), "brightness_offset": float("nan")}
    ratio = float(np.std(values) / np.std(target)) if np.std(target) >= FLAT_SD else float("nan")
    return {"gain": ratio, "brightness_offset": float(np.mean(values) - np.mean(target))}


# ── mode collapse ───────────────────────────────────────────────────────────────────────────────────────────


def spread(stacks: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the standard deviation over slices at one place, root mean square over places, inside the heads.

    Slices (K, h, w) of different sizes are aligned at their centres. NaN without a pixel that half of the slices' heads
    cover, two at least.
    """
    height, width = np.max([slices.shape[1:] for slices, _ in stacks], axis=0)
    images = np.concatenate([centre_fit(slices, height, width, fill=-1) for slices, _ in stacks]).astype(np.float64)
    heads = np.concatenate([centre_fit(head, height, width, fill=False) for _, head in stacks])
    count = heads.sum(axis=0)
    covered = count >= max(2, len(images) / 2)
    if not covered.any():
        return float("nan")
    images, heads, count = images[:, covered], heads[:, covered], count[covered]
    deviations = np.where(heads, images - np.sum(images * heads, axis=0) / count, 0)
    return float(np.sqrt(np.average(np.sum(deviations**2, axis=0) / (count - 1), weights=count)))


def diversity(translated: float, source: float, target_cohort: float, source_cohort: float) -> float:
    """Return how far translations differ from one another, as a share of how far they should.

    All arguments are values of `spread`. The expected spread is the target cohort's, scaled by how far these sources
    differ in comparison with their own cohort. A generator that puts the same head into each source's outline is hardly
    detected (0.6 to 0.9).

    NaN where the sources hardly differ.
    """
    expected = source / source_cohort * target_cohort if source_cohort > FLAT_SD else float("nan")
    return translated / expected if source > FLAT_SD and expected > FLAT_SD else float("nan")
