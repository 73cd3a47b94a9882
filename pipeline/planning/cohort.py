"""Subjects, images and slices of a planned run, from names and headers alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from textwrap import wrap

import numpy as np

from pipeline.data.case import Case, pairs
from pipeline.data.splits import CohortSplit
from pipeline.utils.console import shortlist, table
from pipeline.utils.errors import UserError
from transforms.slices import AXES

FEW = 4  # names in a line of the short form
WIDTH = 120  # characters
OCCUPIED = 0.75  # share of a volume's slices that show enough of the head

Grid = tuple[tuple[int, ...], np.ndarray]  # shape and affine
Contrasts = tuple[str, str]


@dataclass(frozen=True)
class CohortEstimates:
    """Estimates of slices and voxels, from the first readable header among cases."""

    axis: str  # "axial", "coronal" or "sagittal"
    spacing_mm: tuple[float, float] | None  # (in-plane, through-plane) to resample to; None keeps the volumes' own
    pictures: bool = False  # whether the cases are 2D images
    grid: Grid | None = None  # of all volumes, where it is known before they exist; None reads headers

    def grid_of(self, cases: Sequence[Case]) -> Grid:
        """Return shape and affine of the first case with a readable header.

        Raises:
            UserError: no case has one.
        """
        if self.grid is not None:
            return self.grid
        from nibabel import load
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError, SpatialImage

        for case in cases:
            try:
                image = load(case.path)
            except (OSError, ImageFileError, HeaderDataError):  # the run reports it and leaves it out
                continue
            if isinstance(image, SpatialImage) and image.affine is not None:
                return image.shape, image.affine
        raise UserError(f"{cases[0].path}: not readable as NIfTI, nor is any other of {len(cases)} images like it")

    def slices(self, cases: Sequence[Case]) -> int:
        """Estimate the number of slices of cases."""
        if not cases or self.pictures:
            return len(cases)
        from nibabel.affines import voxel_sizes
        from nibabel.orientations import io_orientation

        shape, affine = self.grid_of(cases)
        axis = int((io_orientation(affine)[:, 0] == AXES[self.axis]).argmax())
        slices = shape[axis] * voxel_sizes(affine)[axis] / self.spacing_mm[1] if self.spacing_mm else shape[axis]
        return round(OCCUPIED * slices) * len(cases)

    def voxels(self, cases: Sequence[Case]) -> int:
        """Estimate the number of voxels of volumes, from one header per contrast; 0 for pictures."""
        if self.pictures:
            return 0
        contrasts = {case.contrast for case in cases}
        by_contrast = [[case for case in cases if case.contrast == contrast] for contrast in contrasts]
        return sum(len(side) * prod(self.grid_of(side)[0]) for side in by_contrast)


def first_scans(cases: Iterable[Case], contrasts: Contrasts) -> list[Case]:
    """Return the first contrast's scan of each pair among the cases, on whose grid pairs are trained on."""
    return [first for first, _ in pairs([*cases], contrasts)]


def split_table(split: CohortSplit, contrasts: Contrasts, estimates: CohortEstimates, *, paired: bool) -> str:
    """Return subjects, images and estimated slices by subset and contrast as text; of training pairs if `paired`."""
    rows = []
    for name, cases in _cases_by_subset(split).items():
        groups = {contrast: [case for case in cases if case.contrast == contrast] for contrast in contrasts}
        if paired or name != "train" or split.pairs:
            groups["pairs"] = first_scans(cases, contrasts)
        for kind, group in groups.items():
            rows.append((name, kind, len(_subjects(group)), len(group), estimates.slices(group)))
    return table(["split", "contrast", "subjects", "images", "slices (estimate)"], rows)


def _cases_by_subset(split: CohortSplit) -> dict[str, list[Case]]:
    training = [case for side in split.train.values() for case in side]
    return {"train": training, "validation": list(split.validation), "test": list(split.test)}


def subject_table(split: CohortSplit, contrasts: Contrasts) -> str:
    """Return the name of every subject as text, with its subset and contrasts."""
    rows = []
    for name, cases in _cases_by_subset(split).items():
        scans = {(case.subject, case.contrast) for case in cases}
        for subject in _subjects(cases):
            rows.append((name, subject, " ".join(kind for kind in contrasts if (subject, kind) in scans)))
    return table(["split", "subject", "contrasts"], rows)


def subject_lists(split: CohortSplit, contrasts: Contrasts) -> str:
    """Return the first few names of each subset and contrast as text, and the number of the others."""
    lines, shortened = [], False
    for name, cases in _cases_by_subset(split).items():
        for contrast in contrasts:
            subjects = _subjects([case for case in cases if case.contrast == contrast])
            shortened |= len(subjects) > FEW
            names, heading = shortlist(subjects, FEW) or "none", f"{name} {contrast}"
            lines += wrap(f"{heading:<14} {names}", WIDTH, subsequent_indent=15 * " ", break_long_words=False)
    return "\n".join([*lines, *(["(--verbose names every subject)"] if shortened else [])])


def _subjects(cases: Sequence[Case]) -> list[str]:
    return sorted({case.subject for case in cases})
