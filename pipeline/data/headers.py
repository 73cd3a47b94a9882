"""What volumes' headers alone say of their grids: enough for a plan, at a millisecond a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.case import Case
from transforms.slices import AXES

MOST_HEADERS = 40  # read of a cohort


@dataclass(frozen=True)
class HeaderGrid:
    """A volume's grid.

    Attributes:
        field_mm: How far it reaches along R, A, S, air and all.
        voxel_mm: Size of a voxel along R, A, S.
    """

    field_mm: tuple[float, ...]
    voxel_mm: tuple[float, ...]

    def field_along(self, axis: str) -> float:
        """Return how far it reaches along the axis that `axis` slices are cut along."""
        return self.field_mm[AXES[axis]]


def header_grids(cases: Sequence[Case]) -> Iterator[HeaderGrid]:
    """Yield the grids of at most `MOST_HEADERS` NIfTI volumes, spread evenly over the cases.

    What cannot be read is passed over: the run names it.
    """
    count = min(MOST_HEADERS, len(cases))
    for number in np.unique(np.linspace(0, len(cases) - 1, count).round().astype(int)):
        grid = _grid(cases[number])
        if grid is not None:
            yield grid


def _grid(case: Case) -> HeaderGrid | None:
    import nibabel as nib
    from nibabel.affines import voxel_sizes

    from transforms.io.nifti_header import affine_mm
    from transforms.io.nifti_log import nibabel_silent
    from transforms.spatial import orientation_of

    try:
        with nibabel_silent():
            image = nib.load(case.path)
        affine, _ = affine_mm(image, str(case.path))
        order = np.argsort(orientation_of(affine)[:, 0])  # the file's axes as they lie along R, A, S
        voxel_mm = voxel_sizes(affine)[order]
        field_mm = np.array(image.shape[:3])[order] * voxel_mm
    except Exception:  # whatever a damaged header makes nibabel raise
        return None
    return HeaderGrid(tuple(field_mm.tolist()), tuple(voxel_mm.tolist()))
