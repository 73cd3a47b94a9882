"""Four ways in which an unpaired translation goes wrong, each told from source, translation and training cohorts alone.

No detector sees a real target: unpaired data has none, and where validation has one it is left alone. All take slices
in [-1, 1] and the head of the *source*. Each names what it cannot tell; where it cannot judge it returns NaN.

Which values are bad is said in `pipeline.training.verdicts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter, sobel
from skimage.registration import phase_cross_correlation

from pipeline.metrics.agreement import intensity_distance
from transforms.slices import centre_fit

SHELL = 0.25  # of the way in: scalp and skull, which an inverted brain may well have right
LAYERS = 8  # of the rest
FLAT = 0.01  # SD of intensities that is as good as none; the flattest profile met, of a real T1 head, has 0.028
ALIKE = 0.05  # intensity distance of two contrasts; phantom T1 and T2 are 0.31 apart, real ones 0.04 to 0.56
SHIFTED_SLICES = 12  # slices of a direction whose shift is measured; a median needs no more
SUBPIXELS = 10


@dataclass(frozen=True)
class Cohort:
    """What the detectors know of a contrast's training slices.

    Attributes:
        profile: (LAYERS,) mean intensity from under the scalp to the centre; see `depth_profile`.
        spread: How far slices differ; see `spread`.
        quantiles: Equally spaced quantiles of the foreground's intensities.
    """

    profile: np.ndarray
    spread: float
    quantiles: np.ndarray


@dataclass(frozen=True)
class Translated:
    """Slices of one scan and their translation.

    Attributes:
        source, translation: (K, h, w) in [-1, 1].
        head: (K, h, w) bool, of the source.
        layers: (K, h, w), `depth_layers` of the head.
        pixel_mm: Height and width of a pixel.
    """

    source: np.ndarray
    translation: np.ndarray
    head: np.ndarray
    layers: np.ndarray
    pixel_mm: tuple[float, float]


def measure(scans: Sequence[Translated], source: Cohort, target: Cohort) -> dict[str, float]:
    """Return every detector's value by its name, over all scans of a direction; those that cannot judge are left out.

    Args:
        scans: The slices, at least one scan.
        source, target: The training cohorts of the contrast that is translated and of the one that is made.
    """
    sources = [(scan.source, scan.head) for scan in scans]
    translations = [(scan.translation, scan.head) for scan in scans]
    profile = depth_profile([(scan.translation, scan.layers) for scan in scans])
    values = {
        "contrast_inversion": profile_agreement(profile, target.profile),
        "spatial_shift_mm": shift_mm(scans),
        "identity_collapse": share_of_change(scans, source.quantiles, target.quantiles),
        "mode_collapse": diversity(spread(translations), spread(sources), target.spread, source.spread),
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


# ── contrast inversion ──────────────────────────────────────────────────────────────────────────────────────


def depth_layers(head: np.ndarray) -> np.ndarray:
    """Return for each pixel of (K, h, w) heads its layer, 0 under the scalp to LAYERS - 1 at the slice's centre.

    Layers are equal parts of the depth below the head's outline, relative to the deepest point of the slice. The outer
    quarter and the air have -1. The border of the slice counts as air.
    """
    padded = np.pad(head, ((0, 0), (1, 1), (1, 1)))
    depth = np.stack([distance_transform_edt(one) for one in padded])[:, 1:-1, 1:-1]
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
    both = np.isfinite(profile) & np.isfinite(target)
    if both.sum() < 3 or np.std(target[both]) < FLAT or np.std(profile[both]) < np.std(target[both]) / 4:
        return float("nan")
    return float(np.corrcoef(profile[both], target[both])[0, 1])


# ── spatial shift ───────────────────────────────────────────────────────────────────────────────────────────


def shift_mm(scans: Sequence[Translated]) -> float:
    """Return how far the translation lies beside its source: the median over slices, along each axis, in mm.

    By phase correlation (Kuglin and Hines 1975; Guizar-Sicairos et al. 2008 for tenths of pixels) of the gradient's
    magnitude about the head, which hardly depends on contrast. It sees what all slices share, not a local warp. NaN
    where slices disagree by more than the shift and a pixel, as those of noise do, or have no edges.
    """
    every = [(scan, index) for scan in scans for index in range(len(scan.source))]
    chosen = np.unique(np.linspace(0, len(every) - 1, SHIFTED_SLICES).round().astype(int))
    shifts = []
    for scan, index in (every[place] for place in chosen):
        window = gaussian_filter(binary_dilation(scan.head[index], iterations=3).astype(np.float32), 2)
        before, after = (_edges(image[index]) * window for image in (scan.source, scan.translation))
        if before.any() and after.any():
            shift, *_ = phase_cross_correlation(before, after, upsample_factor=SUBPIXELS)
            shifts.append(shift * scan.pixel_mm)
    if not shifts:
        return float("nan")
    shared = np.median(shifts, axis=0)
    length, disagreement = np.hypot(*shared), np.median(np.hypot(*(shifts - shared).T))
    return float(length) if disagreement <= max(length, *scans[0].pixel_mm) else float("nan")


def _edges(image: np.ndarray) -> np.ndarray:
    return np.hypot(sobel(image, 0), sobel(image, 1))


# ── identity collapse ───────────────────────────────────────────────────────────────────────────────────────


def share_of_change(scans: Sequence[Translated], source: np.ndarray, target: np.ndarray) -> float:
    """Return the mean absolute change inside the head, as a share of what a translation cannot do without.

    That is the intensity distance of the two cohorts (Wasserstein-1), the least mean change that turns one histogram
    into the other, or half the SD of the source where that is less. So a translation that succeeds has 1 or more; one
    below 0.5 is far from the target's histogram and, within a quarter of an SD, the same as its source.

    NaN where the cohorts' intensities are alike (nearer than `ALIKE`): then a copy may be right.

    Args:
        scans: The slices.
        source, target: Equally spaced quantiles of the cohorts' foreground.
    """
    apart = intensity_distance(source, target)
    values = np.concatenate([scan.source[scan.head] for scan in scans])
    change = np.abs(np.concatenate([scan.translation[scan.head] for scan in scans]) - values)
    if apart < ALIKE or len(values) == 0 or np.std(values) < FLAT:
        return float("nan")
    return float(np.mean(change, dtype=np.float64) / min(apart, np.std(values, dtype=np.float64) / 2))


# ── mode collapse ───────────────────────────────────────────────────────────────────────────────────────────


def spread(stacks: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the standard deviation over slices at one place, root mean square over places, inside the heads.

    Args:
        stacks: (K, h, w) slices and their heads; those of different sizes are laid centre on centre.

    Returns:
        In the slices' unit; NaN without a place that half of the slices' heads cover, two at least.
    """
    size = np.max([slices.shape[1:] for slices, _ in stacks], axis=0)
    images = np.concatenate([centre_fit(slices, *size, fill=-1) for slices, _ in stacks]).astype(np.float64)
    heads = np.concatenate([centre_fit(head, *size, fill=False) for _, head in stacks])
    count = heads.sum(axis=0)
    covered = count >= max(2, len(images) / 2)
    if not covered.any():
        return float("nan")
    images, heads, count = images[:, covered], heads[:, covered], count[covered]
    deviations = np.where(heads, images - np.sum(images * heads, axis=0) / count, 0)
    return float(np.sqrt(np.average(np.sum(deviations**2, axis=0) / (count - 1), weights=count)))


def diversity(translated: float, source: float, target_cohort: float, source_cohort: float) -> float:
    """Return how far translations differ from one another, as a share of what they should.

    All four are `spread`: sources as alike as the validation's happen to be may have translations as alike. Of a
    generator that puts one and the same head into the outline of each source it says little (0.6 to 0.9).

    NaN where the sources hardly differ.
    """
    expected = source / source_cohort * target_cohort if source_cohort > FLAT else float("nan")
    return translated / expected if source > FLAT and expected > FLAT else float("nan")
