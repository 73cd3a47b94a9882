"""A cohort of synthetic heads, imaged by MR signal equations: a data source that needs no download."""

import gzip
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.data.case import Case
from pipeline.data.sources.phantom_anatomy import TISSUES, grid, head_fractions, smooth_field
from pipeline.data.sources.phantom_variety import VARIED_CONTRASTS, make_varied_subject
from pipeline.utils.console import progress
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_path, make_folder
from pipeline.utils.workers import run_jobs

logger = logging.getLogger(__name__)

STANDARD, RANDOMISED = "standard", "randomised"  # varieties: one cohort at one scanner, or everything drawn anew
RECIPES = {STANDARD: 1, RANDOMISED: 1}  # by variety, part of the folder's name: raise it when volumes change
TISSUE_REGION = "tissue"  # name of the label maps, in files and figures
HEADER_BYTES = 352
MAX_PROCESSES = 8  # each holds 0.6 GB at 2 mm and 2 GB at 1 mm


@dataclass(frozen=True)
class Tissue:
    """Proton density (water = 1) and relaxation times of a tissue at about 1.5 T."""

    proton_density: float
    t1_ms: float
    t2_ms: float


@dataclass(frozen=True)
class PulseSequence:
    """A spoiled gradient echo, or a spin echo at 90 degrees; with `inversion_ms` after an inversion pulse."""

    repetition_ms: float
    echo_ms: float
    flip_degrees: float = 90.0
    inversion_ms: float | None = None


TISSUE_PARAMETERS = {
    "csf": Tissue(1.0, 4000, 1600),
    "grey": Tissue(0.82, 1000, 95),
    "deep_grey": Tissue(0.80, 850, 82),
    "white": Tissue(0.71, 560, 74),
    "lesion": Tissue(0.86, 1150, 150),
    "bone": Tissue(0.05, 400, 5),
    "marrow": Tissue(0.40, 450, 70),
    "muscle": Tissue(0.75, 950, 45),
    "fat": Tissue(0.72, 400, 140),
    "skin": Tissue(0.65, 700, 60),
    "eye": Tissue(1.0, 3600, 1000),
}
SEQUENCES = {  # a contrast's position in this table seeds its noise: append only
    "T1": PulseSequence(repetition_ms=20, echo_ms=5, flip_degrees=30),
    "T2": PulseSequence(repetition_ms=5725, echo_ms=100),
    "PD": PulseSequence(repetition_ms=5725, echo_ms=10),
    "FLAIR": PulseSequence(repetition_ms=9000, echo_ms=120, inversion_ms=2400),
}


def phantom_cases(
    folder: Path,
    contrasts: Sequence[str],
    *,
    subjects: int,
    spacing_mm: float,
    seed: int,
    variety: str = STANDARD,
    processes: int | None = None,
    quiet: bool = False,
) -> list[Case]:
    """Make a cohort of synthetic heads as NIfTI volumes, one per subject and contrast; complete volumes are kept.

    The folder is `<folder>/recipe<R>-<spacing>mm-seed<S>/`, or `<folder>/randomised<R>-…`. A subject depends on the
    seed and its number alone, so a cohort can be extended. Missing and damaged files are made anew. UserError: the
    phantom cannot make a contrast, or the folder cannot be written.
    """
    cases_by_number = planned_phantom(
        folder, contrasts, subjects=subjects, spacing_mm=spacing_mm, seed=seed, variety=variety
    )
    all_cases = [case for group in cases_by_number.values() for case in group]

    # Find the volumes that are complete already, and make the others, subject by subject.
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decompression releases the interpreter's lock
        flags = pool.map(lambda case: is_whole(case.path, spacing_mm), all_cases)
        missing = {case for case, is_complete in zip(all_cases, flags, strict=True) if not is_complete}
    jobs = {
        number: (seed, number, spacing_mm, variety, {case.contrast: case.path for case in group if case in missing})
        for number, group in cases_by_number.items()
        if not missing.isdisjoint(group)
    }
    make_folder(all_cases[0].path.parent)
    count = processes or min(os.cpu_count() or 1, MAX_PROCESSES)
    results = run_jobs(write_subject, jobs, count, preload=["transforms.monai_transforms"])  # as the slice cache's
    bar = progress(results, total=len(jobs), title="phantom", unit="subject", quiet=quiet or not jobs)
    for number, _, reason in bar:
        if reason is not None:
            raise UserError(f"phantom: subject {number} could not be made: {reason}")
    return all_cases


def phantom_tissues(
    cases: Sequence[Case], spacing_mm: float, seed: int, *, processes: int | None = None
) -> dict[str, dict[str, Path]]:
    """Return the tissues of a cohort's cases as label maps, subject -> "tissue" -> file; those missing are made.

    A voxel has the label of the largest fraction, counted from 1 in the order of `TISSUES`, and 0 where air is more.
    Where the folder cannot be written, as one that is shared, the subjects without a file are left out with a warning.
    """
    numbers = {case.subject: int(case.subject.rpartition("-")[2]) for case in cases}
    paths = {case.subject: case.path.with_name(f"{case.subject}_{TISSUE_REGION}.nii.gz") for case in cases}
    jobs = {
        subject: (seed, numbers[subject], spacing_mm, path)
        for subject, path in paths.items()
        if not is_whole(path, spacing_mm)
    }
    count = processes or min(os.cpu_count() or 1, MAX_PROCESSES)
    try:
        reasons = {subject: reason for subject, _, reason in run_jobs(write_tissues, jobs, count) if reason is not None}
    except UserError as error:
        reasons = dict.fromkeys(jobs, str(error))
    if reasons:
        subject, reason = next(iter(reasons.items()))
        logger.warning(f"{subject}: its tissues could not be written, so they are not measured: {reason}")
    return {subject: {TISSUE_REGION: path} for subject, path in paths.items() if subject not in reasons}


def write_tissues(seed: int, number: int, spacing_mm: float, path: Path) -> None:
    """Write one subject's label map of tissues, on the grid of its volumes, as int16 NIfTI."""
    with threadpool_limits(1):
        fractions = head_fractions(_generator(seed, number, 0), spacing_mm)
    tissues = np.stack([fractions[name] for name in TISSUES])
    labels = np.where(tissues.max(axis=0) > 1 - tissues.sum(axis=0), tissues.argmax(axis=0) + 1, 0)
    _save(labels.astype(np.int16), spacing_mm, f"tissues, phantom {RECIPES[STANDARD]}", path)


def planned_phantom(
    folder: Path,
    contrasts: Sequence[str],
    *,
    subjects: int,
    spacing_mm: float,
    seed: int,
    variety: str = STANDARD,
) -> dict[int, list[Case]]:
    """Return the cases of a cohort by the subject's number, without making or reading files; raises as
    `phantom_cases`.
    """
    known = SEQUENCES if variety == STANDARD else VARIED_CONTRASTS
    if unknown := [contrast for contrast in contrasts if contrast not in known]:
        raise UserError(f"phantom: no contrast {', '.join(unknown)}; it can make {', '.join(known)}")
    recipe = f"{'recipe' if variety == STANDARD else variety}{RECIPES[variety]}"
    cohort_folder = Path(folder) / f"{recipe}-{spacing_mm:g}mm-seed{seed}"
    return {
        number: [Case(name, "", contrast, cohort_folder / f"{name}_{contrast}.nii.gz") for contrast in contrasts]
        for number, name in ((number, f"phantom-{number:04d}") for number in range(1, subjects + 1))
    }


def write_subject(seed: int, number: int, spacing_mm: float, variety: str, paths: Mapping[str, Path]) -> None:
    """Write one subject's volumes, contrast -> path, as int16 NIfTI in scanner space, each complete or not at all."""
    with threadpool_limits(1):  # the workers fill the cores
        make = make_subject if variety == STANDARD else make_varied_subject
        volumes = make(seed, number, spacing_mm, list(paths))
    for contrast, path in paths.items():
        _save(volumes[contrast], spacing_mm, f"synthetic {contrast}, phantom {RECIPES[variety]}", path)


def _save(volume: np.ndarray, spacing_mm: float, description: str, path: Path) -> None:
    """Write an int16 volume in scanner space, complete or not at all."""
    _, affine = grid(spacing_mm)
    image = nibabel.Nifti1Image(volume, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    image.header.set_xyzt_units(xyz="mm")
    image.header["descrip"] = description.encode()
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def is_whole(path: Path, spacing_mm: float) -> bool:
    """Return whether a volume exists, decompresses to its last byte and has the right length."""
    shape, _ = grid(spacing_mm)
    try:
        with gzip.open(path) as stream:
            return len(stream.read()) == HEADER_BYTES + 2 * int(np.prod(shape))
    except (OSError, EOFError, zlib.error):
        return False


def make_subject(
    seed: int, number: int, spacing_mm: float, contrasts: Sequence[str] = tuple(SEQUENCES)
) -> dict[str, np.ndarray]:
    """Scan one synthetic subject: contrast → int16 volume (X, Y, Z), RAS, all contrasts on the same anatomy.

    A volume depends on seed, number and spacing alone, not on the other contrasts.
    """
    anatomy_rng, tissue_rng = (_generator(seed, number, stream) for stream in (0, 1))
    fractions = head_fractions(anatomy_rng, spacing_mm)
    tissues = {name: individual_tissue(tissue_rng, TISSUE_PARAMETERS[name]) for name in TISSUES}
    volumes = {}
    for contrast in contrasts:
        contrast_rng = _generator(seed, number, 2 + list(SEQUENCES).index(contrast))
        signals = {name: magnetisation(tissue, SEQUENCES[contrast]) for name, tissue in tissues.items()}
        volumes[contrast] = scan(contrast_rng, fractions, signals, spacing_mm)
    return volumes


def _generator(seed: int, number: int, stream: int) -> np.random.Generator:
    """Return the random numbers of a subject: stream 0 of its anatomy, 1 of its tissues, then one of each contrast."""
    return np.random.default_rng([seed, number, stream])


def scan(
    rng: np.random.Generator, fractions: dict[str, np.ndarray], signals: dict[str, float], spacing_mm: float
) -> np.ndarray:
    """Mix tissue signals by volume fraction, then apply receive bias, gain and Rician noise.

    The brightest brain tissue has 800-1200; the noise is 2-3 % of the mean of grey and white matter.
    """
    gain = rng.uniform(800, 1200) / max(signals[name] for name in ("csf", "grey", "white"))
    noise_sd = gain * rng.uniform(0.02, 0.03) * (signals["grey"] + signals["white"]) / 2
    clean = sum(signals[name] * fraction for name, fraction in fractions.items())
    clean = gain * clean * np.exp(np.clip(0.06 * smooth_field(rng, spacing_mm, 80), -0.15, 0.15))
    in_phase, quadrature = noise_sd * rng.standard_normal((2, *clean.shape), dtype=np.float32)
    return np.rint(np.hypot(clean + in_phase, quadrature)).astype(np.int16)


def magnetisation(tissue: Tissue, sequence: PulseSequence) -> float:
    """Return the steady-state signal of a tissue; 1 is the equilibrium magnetisation of water.

    PD sin a (1 - E1) / (1 - cos a E1) exp(-TE / T2), E1 = exp(-TR / T1) (Ernst and Anderson 1966); after an inversion
    pulse, PD |1 - 2 exp(-TI / T1) + E1| exp(-TE / T2).
    """
    recovery = np.exp(-sequence.repetition_ms / tissue.t1_ms)
    decay = tissue.proton_density * np.exp(-sequence.echo_ms / tissue.t2_ms)
    if sequence.inversion_ms is not None:
        return float(decay * abs(1 - 2 * np.exp(-sequence.inversion_ms / tissue.t1_ms) + recovery))
    flip = np.deg2rad(sequence.flip_degrees)
    return float(decay * np.sin(flip) * (1 - recovery) / (1 - np.cos(flip) * recovery))


def individual_tissue(rng: np.random.Generator, tissue: Tissue) -> Tissue:
    """Return a tissue with one subject's random variation: PD by 1.5 %, T1 by 3 %, T2 by 4 %."""
    density, t1, t2 = np.exp(np.clip(rng.standard_normal(3), -2, 2) * [0.015, 0.03, 0.04])
    return Tissue(tissue.proton_density * density, tissue.t1_ms * t1, tissue.t2_ms * t2)
