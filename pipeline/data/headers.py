"""Voxel grids read from volumes' headers alone: enough for a plan, at a millisecond per file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.case import Case
from transforms.slices import AXES

MAX_HEADERS = 40  # read per cohort


@dataclass(frozen=True)
class HeaderGrid:
    """A volume's grid.

    Attributes:
        field_mm: Extent of the field of view along R, A, S.
        voxel_mm: Voxel size along R, A, S.
    """

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
    import nibabel as nib
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import io_orientation

    from transforms.io.nifti_checks import affine_mm, nibabel_silent

    try:
        with nibabel_silent():
            image = nib.load(case.path)
        affine, _ = affine_mm(image, str(case.path))
        order = np.argsort(io_orientation(affine)[:, 0])  # the file's axes in the order R, A, S
        voxel_mm = voxel_sizes(affine)[order]
        field_mm = np.array(image.shape[:3])[order] * voxel_mm
    except Exception:  # whatever a damaged header makes nibabel raise
        return None
    return HeaderGrid(tuple(field_mm.tolist()), tuple(voxel_mm.tolist()))
