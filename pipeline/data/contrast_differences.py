"""Differences between two contrasts' scans that a network would mistake for contrast: coverage, voxel size, subjects.

Coverage and voxel size are also read from headers alone, at a millisecond per file: enough for a plan.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage

from pipeline.data.case import Case
from pipeline.data.coverage import MAX_LENGTH_RATIO, Coverage, shared_length
from transforms.io.nifti_checks import affine_mm, nibabel_silent
from transforms.slices import evenly_spread

MAX_VOXEL_RATIO = 1.2  # larger voxel size over smaller, along each axis
MAX_HEADERS = 40  # read per cohort


def coverage_text(
    shown_mm: Mapping[str, float],
    coverage: Coverage,
    *,
    region: str = "head",
    paired: bool = False,
    lookup: bool = False,
) -> str | None:
    """Return a warning where the contrasts cover different lengths along the sliced axis, or None where they agree.

    `shown_mm` is the typical length of a `region`, "head" or "field of view", by contrast. Where training is `paired`,
    so that it sees the same places in both, only a `lookup` that is fitted without pairs suffers.
    """
    if len(shown_mm) < 2 or (paired and not lookup):
        return None
    trained_mm = {contrast: min(length, coverage.mm or length) for contrast, length in shown_mm.items()}
    if max(trained_mm.values()) <= MAX_LENGTH_RATIO * min(trained_mm.values()):
        return None
    lengths = " and ".join(f"{length:.0f} mm in {contrast}" for contrast, length in shown_mm.items())
    shared = Coverage(coverage.axis, shared_length(shown_mm))
    excess = "" if coverage.mm is None else f", and preprocess.coverage_mm = {coverage.mm:g} leaves that different"
    remedy = f"preprocess.coverage_mm: shared would train on {shared if region == 'head' else 'what both heads show'}"
    consequences = [] if paired else ["networks would take what one contrast never shows for a matter of contrast"]
    consequences += ["the lookup would be fitted to what both show of the head alone"] if lookup else []
    return (
        f"along the {coverage.axis} slices' axis scans show {lengths} of {region} (medians){excess}; "
        f"{', and '.join(consequences)}; {remedy}"
    )


def voxel_text(voxels_mm: Mapping[str, Sequence[float]]) -> str | None:
    """Return a warning where the contrasts' voxels differ in size and are not resampled, or None where they agree.

    `voxels_mm` gives the typical voxel size along R, A, S by contrast.
    """
    if len(voxels_mm) < 2:
        return None
    ratios = [max(sizes) / min(sizes) for sizes in zip(*voxels_mm.values(), strict=True)]
    if max(ratios) <= MAX_VOXEL_RATIO:
        return None
    sizes = " and ".join(
        f"{' × '.join(f'{size:.3g}' for size in voxel)} mm in {contrast}" for contrast, voxel in voxels_mm.items()
    )
    return (
        f"voxels measure {sizes} (medians; right, anterior, superior) and preprocess.spacing_mm is null, so heads are "
        f"up to {max(ratios):.2g} times as large in one contrast as in the other; set preprocess.spacing_mm"
    )


class HeaderGrid(NamedTuple):
    """A volume's field of view and voxel size in mm, along R, A, S."""

    field_mm: tuple[float, ...]
    voxel_mm: tuple[float, ...]


def header_grids(cases: Sequence[Case]) -> list[HeaderGrid]:
    """Return the grids of at most `MAX_HEADERS` NIfTI volumes, spread evenly over the cases.

    Unreadable headers are skipped: a run reports them.
    """
    grids = []
    for number in evenly_spread(len(cases), MAX_HEADERS):
        with suppress(Exception), nibabel_silent():  # whatever a damaged header makes nibabel raise
            image = nib.load(cases[number].path)
            assert isinstance(image, SpatialImage)
            affine, _ = affine_mm(image, str(cases[number].path))
            order = np.argsort(nib.io_orientation(affine)[:, 0])  # the file's axes in the order R, A, S
            voxel_mm = voxel_sizes(affine)[order]
            field_mm = np.array(image.shape[:3])[order] * voxel_mm
            grids.append(HeaderGrid(tuple(field_mm.tolist()), tuple(voxel_mm.tolist())))
    return grids


def similar_ids(cases: Sequence[Case], contrasts: tuple[str, str]) -> list[tuple[str, str]]:
    """Return pairs of subjects, each with one contrast only, whose names nearly agree; a subject is in one pair.

    Names nearly agree if they are equal but for case, punctuation, leading zeros and the contrasts' names in them.
    """
    first, second = ({case.subject for case in cases if case.contrast == contrast} for contrast in contrasts)
    words = "|".join(re.escape(contrast) for contrast in contrasts)  # as in `smith_T1` and `T1w-smith`
    contrast_word = re.compile(rf"(?i)(?<![a-z0-9])(?:{words})w?(?![a-z0-9])")

    def key(name: str) -> str:
        without_zeros = re.sub(r"(?<!\d)0+(?=\d)", "", contrast_word.sub("", name))
        return re.sub(r"[\W_]+", "", without_zeros).casefold()

    remaining: dict[str, list[str]] = defaultdict(list)
    for name in sorted(second - first):
        remaining[key(name)].append(name)
    matches = []
    for name in sorted(first - second):
        if key(name) and remaining[key(name)]:
            matches.append((name, remaining[key(name)].pop(0)))
    return matches


def similar_ids_text(
    cases: Sequence[Case], contrasts: tuple[str, str], part_of: dict[str, str] | None = None
) -> str | None:
    """Return a warning about names that nearly agree, or None where none do.

    `part_of` gives, for the subjects that are in the split, their part of it.
    """
    similar = similar_ids(cases, contrasts)
    if not similar:
        return None
    first, second = ({case.subject for case in cases if case.contrast == contrast} for contrast in contrasts)
    summary = (
        f"subjects with both {contrasts[0]} and {contrasts[1]}: {len(first & second)}; subjects with "
        f"{contrasts[0]} only (of {len(first - second)}) whose name nearly agrees with one with {contrasts[1]} only "
        f"(of {len(second - first)}): {len(similar)}, such as {similar[0][0]} and {similar[0][1]}"
    )
    split_parts = [tuple((part_of or {}).get(name) for name in pair) for pair in similar]
    leak_count = sum(None not in pair and pair[0] != pair[1] for pair in split_parts)
    leak = f" (here {leak_count} would)" if leak_count else ""
    return (
        f"{summary}; if they are the same people they count as no pair, and a person may train and be tested{leak}: "
        "give both contrasts' files one name for a subject"
    )
