"""Synthetic heads of which everything is drawn anew: anatomy, tissues, pulse sequences, coil, noise and preparation.

What is learnt from them must not rely on any of it (domain randomisation: Billot et al. 2023, "SynthSeg"; Iglesias et
al. 2021, "SynthSR"). Intensities come from signal equations whose tissues are drawn together, log T2 with log T1, so
that the two contrasts of a subject go together as those of a scanner do. In some subjects white matter is immature:
darker than grey matter in T1 and brighter in T2.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import ndimage

from pipeline.data.sources.phantom_anatomy import HEAD_CENTRE_MM, TISSUES, Variety, grid, head_fractions, smooth_field

VARIED_CONTRASTS = ("T1", "T2")
BRAIN = ("grey", "deep_grey", "white", "lesion")
MATURE = {  # proton density (water = 1), T1 and T2 in ms, at about 1.5 T
    "csf": (1.0, 4000, 1600),
    "grey": (0.82, 1050, 95),
    "deep_grey": (0.80, 850, 82),
    "white": (0.71, 600, 74),
    "lesion": (0.86, 1200, 150),
    "bone": (0.07, 400, 5),
    "marrow": (0.45, 400, 80),
    "muscle": (0.75, 950, 45),
    "fat": (0.75, 300, 120),
    "skin": (0.65, 700, 60),
    "eye": (1.0, 3600, 1000),
}
IMMATURE = {"grey": (0.88, 1600, 150), "deep_grey": (0.86, 1350, 125), "white": (0.90, 1850, 220)}  # newborns'
WATER, FATTY = ("csf", "eye"), ("fat", "marrow")


def make_varied_subject(
    seed: int, number: int, spacing_mm: float, contrasts: Sequence[str] = VARIED_CONTRASTS
) -> dict[str, np.ndarray]:
    """Scan one subject of a varied cohort: contrast ("T1", "T2") → int16 volume (X, Y, Z), RAS, on one anatomy.

    A volume depends on seed, number and spacing alone, not on the other contrasts.
    """
    anatomy, tissue, preparation = (np.random.default_rng([seed, number, 100 + stream]) for stream in range(3))
    stripped = bool(preparation.random() < 0.5)
    fractions = head_fractions(anatomy, spacing_mm, draw_variety(anatomy, stripped=stripped))
    tissues = draw_tissues(tissue, spacing_mm)
    mask = draw_field_of_view(preparation, fractions, spacing_mm)
    if stripped:
        mask &= draw_brain_mask(preparation, fractions, spacing_mm)
    volumes = {}
    for contrast in contrasts:
        rng = np.random.default_rng([seed, number, 110 + VARIED_CONTRASTS.index(contrast)])
        signals, bias = draw_signals(rng, tissues, contrast), 0.08 if stripped else 0.2
        scanned = scan_variously(rng, fractions, signals, spacing_mm, bias)
        volumes[contrast] = np.where(mask, scanned, 0).astype(np.int16)
    return volumes


def draw_variety(rng: np.random.Generator, *, stripped: bool) -> Variety:
    """Draw how far a head may differ from the atlas's; stripped ones may be as small as an infant's."""
    return Variety(
        rotation_degrees=5.0,
        size=rng.uniform(0.68 if stripped else 0.8, 1.06),
        scale=0.06,
        widening=rng.uniform(1.0, 2.2),
        displacement_mm=(rng.uniform(2.0, 5.0), rng.uniform(0.8, 2.0)),
        folds=rng.uniform(0.3, 1.1),
        sharpness=rng.uniform(1.5, 4.0),
        lesions=rng.choice([0.0, 4.0, 12.0]),
        lesion_mm=(1.5, 8.0),
    )


def draw_tissues(rng: np.random.Generator, spacing_mm: float) -> dict[str, tuple[np.ndarray, ...]]:
    """Draw proton density, T1 and T2 of each tissue, numbers, or maps where they vary from place to place.

    A subject's brain is mature, or between that and a newborn's. Each tissue's T1 varies by an SD of 12 % (18 %
    outside the brain, 24 % in a tenth of the subjects), and its T2 partly with it; the field's strength scales all T1
    but water's.
    """
    immaturity = 0.0 if rng.random() < 0.45 else rng.uniform(0, 1.1)
    patches = smooth_field(rng, spacing_mm, 30)
    field_strength = np.exp(rng.normal(0.05, 0.15))
    spread = 1.0 if rng.random() < 0.9 else 2.0
    tissues: dict[str, tuple[np.ndarray, ...]] = {}
    for name in TISSUES:
        density, t1, t2 = (np.log(value) for value in MATURE[name])
        common, own, of_density = np.clip(rng.standard_normal(3), -2, 2)
        wide = spread if name in BRAIN else 1.5
        if name in IMMATURE:
            # Maturation is a matter of place, and of white matter more than of grey.
            share = np.clip(immaturity * (1 + 0.12 * patches), 0, 1.3) + (0.03 * patches if name != "deep_grey" else 0)
            density, t1, t2 = (
                mature + share * (np.log(newborn) - mature)
                for mature, newborn in zip((density, t1, t2), IMMATURE[name], strict=True)
            )
        if name == "lesion":  # anything between scar and cyst, on white or immature matter
            t1, t2 = t1 + rng.uniform(-0.4, 0.8), t2 + rng.uniform(-0.5, 0.9)
        t1 = t1 + wide * 0.12 * common + (0 if name in (*WATER, *FATTY) else np.log(field_strength))
        t2 = t2 + wide * (0.08 * common + 0.08 * own) + (rng.normal(0, 0.3) if name in (*WATER, *FATTY) else 0)
        tissues[name] = np.exp(density + wide * 0.03 * of_density), np.exp(t1), np.exp(t2)
    return tissues


def draw_signals(
    rng: np.random.Generator, tissues: Mapping[str, tuple[np.ndarray, ...]], contrast: str
) -> dict[str, np.ndarray]:
    """Draw a pulse sequence of a contrast and return each tissue's signal, a number or a map.

    T1 is a spoiled gradient echo, an inversion recovery or a spin echo; T2 a spin echo. Fat may be suppressed.
    """
    suppressed = rng.random() < 0.3
    fat = rng.uniform(0.05, 0.5) if suppressed else rng.uniform(0.4, 1.3)
    kind = rng.choice(["gradient", "inversion", "spin"]) if contrast == "T1" else "T2"
    draws = rng.random(4)

    def between(index: int, low: float, high: float) -> float:
        return float(low + (high - low) * draws[index])

    def signal(density: np.ndarray, t1: np.ndarray, t2: np.ndarray) -> np.ndarray:
        if kind == "gradient":
            flip, recovery = np.deg2rad(between(1, 15, 40)), np.exp(-between(0, 8, 35) / t1)
            return (
                density * np.sin(flip) * (1 - recovery) / (1 - np.cos(flip) * recovery) * np.exp(-between(2, 2, 8) / t2)
            )
        if kind == "inversion":
            recovery = np.exp(-between(0, 1600, 2600) / t1)
            recovered = np.abs(1 - 2 * np.exp(-between(1, 650, 1050) / t1) + recovery)
            return density * recovered * np.exp(-between(2, 3, 25) / t2)
        repetition, echo = (
            (between(0, 350, 800), between(1, 8, 20))
            if kind == "spin"
            else (between(0, 2500, 8000), between(1, 70, 140))
        )
        return density * (1 - np.exp(-repetition / t1)) * np.exp(-echo / t2)

    return {name: signal(*values) * (fat if name in FATTY else 1) for name, values in tissues.items()}


def scan_variously(
    rng: np.random.Generator,
    fractions: Mapping[str, np.ndarray],
    signals: Mapping[str, np.ndarray],
    spacing_mm: float,
    bias: float,
) -> np.ndarray:
    """Mix signals by volume fraction; then the coil's bias, a resolution, Rician noise of 0 to 6 % and a gain.

    `bias` is the largest SD of the logarithm of the coil's sensitivity, which may rise towards the surface, too.
    """
    clean = sum(np.float32(1) * signals[name] * fraction for name, fraction in fractions.items()).astype(np.float32)
    brain = _sum(fractions[name] for name in BRAIN)
    level = float((clean * brain).sum() / brain.sum())
    clean *= np.exp(rng.uniform(0, bias) * np.clip(smooth_field(rng, spacing_mm, rng.uniform(50, 110)), -2, 2))
    if bias > 0.1:
        clean *= surface_sensitivity(rng, spacing_mm)
    in_plane_mm, through_mm = rng.uniform(0, 1.5), max(rng.uniform(-4, 5), 0)
    sigmas = np.array([in_plane_mm, in_plane_mm, max(in_plane_mm, through_mm)]) / 2.355 / spacing_mm
    clean = ndimage.gaussian_filter(clean, sigmas)
    noise = level * 0.06 * rng.random() ** 2 * rng.standard_normal((2, *clean.shape), dtype=np.float32)
    return np.rint(rng.uniform(300, 1000) / level * np.hypot(clean + noise[0], noise[1])).clip(0, 32000)


def surface_sensitivity(rng: np.random.Generator, spacing_mm: float) -> np.ndarray:
    """Draw a coil's sensitivity (X, Y, Z) that rises from the middle of the head to its surface, up to twofold."""
    shape, affine = grid(spacing_mm)
    squared = sum(
        (np.arange(count) * spacing_mm + origin - centre).reshape([-1 if a == axis else 1 for a in range(3)]) ** 2
        for axis, (count, origin, centre) in enumerate(zip(shape, affine[:3, 3], HEAD_CENTRE_MM, strict=True))
    )
    return np.exp(max(0.0, rng.uniform(-0.4, 0.5)) * np.minimum(squared / 90.0**2, 1)).astype(np.float32)


def draw_field_of_view(rng: np.random.Generator, fractions: Mapping[str, np.ndarray], spacing_mm: float) -> np.ndarray:
    """Draw as bool (X, Y, Z) what a scan covers: in half of them the neck is cut off, in a fifth the crown."""
    shape, affine = grid(spacing_mm)
    height_mm = np.arange(shape[2]) * spacing_mm + affine[2, 3]
    covered = np.ones(shape[2], bool)
    heads = np.flatnonzero(_sum(fractions.values()).max(axis=(0, 1)) > 0.5)
    cut_below, cut_above = rng.random(2) < (0.5, 0.2)
    if cut_below:
        covered &= height_mm > height_mm[heads[0]] + rng.uniform(0, 85)
    if cut_above:
        covered &= height_mm < height_mm[heads[-1]] - rng.uniform(0, 45)
    return np.broadcast_to(covered, shape).copy()


def draw_brain_mask(rng: np.random.Generator, fractions: Mapping[str, np.ndarray], spacing_mm: float) -> np.ndarray:
    """Draw the mask of a skull-stripped brain: all within the skull, or close to the brain's own tissue."""
    brain = _sum(fractions[name] for name in BRAIN)
    shape, affine = grid(spacing_mm)
    height_mm = np.broadcast_to(np.arange(shape[2]) * spacing_mm + affine[2, 3], shape)
    if rng.random() < 0.6:  # the brain's own outline, its ventricles and narrow sulci filled
        mask = np.asarray(brain > rng.uniform(0.3, 0.7))
        reach = rng.integers(0, 4)
        if reach:
            mask = ndimage.binary_closing(mask, iterations=int(reach))
        mask = np.stack([ndimage.binary_fill_holes(layer) for layer in np.moveaxis(mask, 2, 0)], axis=2)
    else:
        within = ndimage.gaussian_filter(brain + fractions["csf"], 4 / spacing_mm)
        mask = within > rng.uniform(0.4, 0.8) + 0.06 * smooth_field(rng, spacing_mm, 25)
    mask &= height_mm > -45 - rng.uniform(0, 20)
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return mask


def _sum(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return the sum of arrays of one shape, one after the other."""
    return functools.reduce(np.add, arrays)
