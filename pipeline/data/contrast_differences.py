"""Differences between two contrasts' scans that a network would mistake for contrast: coverage, voxel size, subjects.

Coverage and voxel size are also read from headers alone, at a millisecond per file: enough for a plan.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage

from pipeline.data.case import Case
from pipeline.data.coverage import MAX_LENGTH_RATIO, Coverage, shared_length
from transforms.io.nifti_checks import affine_mm, nibabel_silent
from transforms.slices import AXES

MAX_VOXEL_RATIO = 1.2  # larger voxel size over smaller, along each axis
MAX_HEADERS = 40  # read per cohort
MIN_WORD_LENGTH = 5  # letters; shorter names of different people often differ by one letter


def coverage_text(shown_mm: Mapping[str, float], coverage: Coverage, *, region: str = "head") -> str | None:
    """Return a warning where the contrasts cover different lengths along the sliced axis, or None where they agree.

    Args:
        shown_mm: Contrast -> typical length covered. With fewer than two contrasts there is no warning.
        coverage: The range that is trained on.
        region: What is measured, "head" or "field of view".
    """
    if len(shown_mm) < 2:
        return None
    trained_mm = {contrast: min(length, coverage.mm or length) for contrast, length in shown_mm.items()}
    if max(trained_mm.values()) <= MAX_LENGTH_RATIO * min(trained_mm.values()):
        return None
    lengths = " and ".join(f"{length:.0f} mm in {contrast}" for contrast, length in shown_mm.items())
    shared = Coverage(coverage.axis, shared_length(shown_mm))
    excess = "" if coverage.mm is None else f", and preprocess.coverage_mm = {coverage.mm:g} leaves that different"
    remedy = f"preprocess.coverage_mm: shared would train on {shared}" if region == "head" else (
        "preprocess.coverage_mm: shared would train on what both contrasts' heads show"
    )  # fmt: skip
    return (
        f"along the {coverage.axis} slices' axis scans show {lengths} of {region} (medians){excess}; networks would "
        f"take what one contrast never shows for a matter of contrast; {remedy}"
    )


def voxel_text(voxels_mm: Mapping[str, Sequence[float]]) -> str | None:
    """Return a warning where the contrasts' voxels differ in size and are not resampled, or None where they agree.

    Args:
        voxels_mm: Contrast -> typical voxel size along R, A, S. With fewer than two contrasts there is no warning.
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


@dataclass(frozen=True)
class HeaderGrid:
    """A volume's field of view and voxel size in mm, along R, A, S."""

    field_mm: tuple[float, ...]
    voxel_mm: tuple[float, ...]

    def field_along(self, axis: str) -> float:
        """Return the extent of the field of view across slices of an orientation ("axial", "coronal" or "sagittal")."""
        return self.field_mm[AXES[axis]]


def header_grids(cases: Sequence[Case]) -> Iterator[HeaderGrid]:
    """Yield the grids of at most `MAX_HEADERS` NIfTI volumes, spread evenly over the cases.

    Unreadable headers are skipped: a run reports them.
    """
    count = min(MAX_HEADERS, len(cases))
    for number in np.unique(np.linspace(0, len(cases) - 1, count).round().astype(int)):
        grid = _grid(cases[number])
        if grid is not None:
            yield grid


def _grid(case: Case) -> HeaderGrid | None:
    try:
        with nibabel_silent():
            image = nib.load(case.path)
        assert isinstance(image, SpatialImage)
        affine, _ = affine_mm(image, str(case.path))
        order = np.argsort(nib.io_orientation(affine)[:, 0])  # the file's axes in the order R, A, S
        voxel_mm = voxel_sizes(affine)[order]
        field_mm = np.array(image.shape[:3])[order] * voxel_mm
    except Exception:  # whatever a damaged header makes nibabel raise
        return None
    return HeaderGrid(tuple(field_mm.tolist()), tuple(voxel_mm.tolist()))


def similar_ids(cases: Sequence[Case], contrasts: tuple[str, str]) -> list[tuple[str, str]]:
    """Return pairs of subjects, each with one contrast only, whose names nearly agree; a subject is in one pair.

    The contrasts' names within subject names are ignored. Names nearly agree if they are equal but for case and
    punctuation; else if their numbers are equal but for leading zeros (`P007` and `007B`); else, for names without
    digits, if one has a single letter more than the other. One digit more or less tells people apart.

    Args:
        cases: The cohort.
        contrasts: The two contrasts' names.
    """
    first, second = ({case.subject for case in cases if case.contrast == contrast} for contrast in contrasts)
    words = "|".join(re.escape(contrast) for contrast in contrasts)  # as in `smith_T1` and `T1w-smith`
    own_part = {name: re.sub(rf"(?i)(?<![a-z0-9])(?:{words})w?(?![a-z0-9])", "", name) for name in first ^ second}
    left, right = sorted(first - second), sorted(second - first)
    matches: list[tuple[str, str]] = []
    for keys in (_letters_and_digits, _numbers, _one_letter_more):
        by_key = defaultdict(list)
        for name in right:
            for key in keys(own_part[name], 1):
                by_key[key].append(name)
        matched = {name for pair in matches for name in pair}
        for name in left:
            candidates = {other for key in keys(own_part[name], 0) for other in by_key[key]} - matched
            if name not in matched and candidates:
                matches.append((name, min(candidates)))
                matched |= {*matches[-1]}
    return sorted(matches)


def _letters_and_digits(name: str, _: int) -> Set[Hashable]:
    """Return a name's letters and digits in lower case."""
    return {re.sub(r"[\W_]+", "", name).casefold()} - {""}


def _numbers(name: str, _: int) -> Set[Hashable]:
    """Return a name's numbers without leading zeros."""
    return {tuple(digits.lstrip("0") or "0" for digits in re.findall(r"\d+", name))} - {()}


def _one_letter_more(name: str, side: int) -> Set[Hashable]:
    """Return keys that a name without digits has in common with those of the other side with one letter more or less.

    A key is the side of the shorter name, and that name.
    """
    word = re.sub(r"[\W_]+", "", name).casefold()
    if len(word) < MIN_WORD_LENGTH or re.search(r"\d", word):
        return set()
    return {(side, word)} | {(1 - side, word[:index] + word[index + 1 :]) for index in range(len(word))}


def similar_ids_text(
    cases: Sequence[Case], contrasts: tuple[str, str], part_of: dict[str, str] | None = None
) -> str | None:
    """Return a warning about names that nearly agree, or None where none do.

    Args:
        cases: The cohort.
        contrasts: The two contrasts' names.
        part_of: Subject -> its part of the split, for the subjects that are in one.
    """
    similar = similar_ids(cases, contrasts)
    if not similar:
        return None
    first, second = ({case.subject for case in cases if case.contrast == contrast} for contrast in contrasts)
    both_count, count = len(first & second), len(similar)
    overlap = f"{both_count} {'subject has' if both_count == 1 else 'subjects have'} both"
    if both_count == 0:
        overlap = "no subject has both"
    first_count, second_count = (f"{len(subjects)}" for subjects in (first - second, second - first))
    match_text = f"1 name with {contrasts[0]} only (of {first_count}) nearly agrees"
    if count > 1:
        match_text = f"{count} names with {contrasts[0]} only (of {first_count}) nearly agree"
    summary = (
        f"{overlap} {contrasts[0]} and {contrasts[1]}, and {match_text} with one with {contrasts[1]} only "
        f"(of {second_count}), such as {similar[0][0]} and {similar[0][1]}"
    )
    split_parts = [tuple((part_of or {}).get(name) for name in pair) for pair in similar]
    leak_count = sum(None not in pair and pair[0] != pair[1] for pair in split_parts)
    leak = f" (here {leak_count} would)" if leak_count else ""
    return (
        f"{summary}; if they are the same people they count as no pair, and a person may train and be tested{leak}: "
        "give both contrasts' files one name for a subject"
    )
