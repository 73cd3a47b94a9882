"""Label maps: binary masks and segmentations, read from files and brought onto other grids by nearest neighbour."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transforms.io.nifti import naming_errors, open_volume
from transforms.io.nifti_checks import VolumeError, affine_mm, nibabel_silent, volume_shape
from transforms.registration import resample_onto
from transforms.slices import contiguous, cut_slices
from transforms.spatial import to_canonical

MOST_LABELS = 64
HIGHEST = 65_535  # label; those of FreeSurfer end at 14,175
UNCOUNTED = 255  # index of the labels beyond the first 64


@dataclass(frozen=True)
class LabelMap:
    """Labels on a grid."""

    # (X, Y, Z) or (N, H, W) uint8: 0 where the file has 0, i + 1 for labels[i], 255 for further labels
    indices: np.ndarray
    labels: tuple[int, ...]  # the labels in the file besides 0, ascending; the first 64


def read_label_map(path: Path) -> tuple[LabelMap, np.ndarray]:
    """Read a volume of labels; return it with axes in RAS order, and its (4, 4) affine, voxel to RAS millimetres.

    ValueError: the file cannot be read, or holds other values than whole numbers from 0 to 65,535.
    """
    with nibabel_silent(), naming_errors(str(path)):
        image, _ = open_volume(path)
        shape = volume_shape(image.header, str(path))
        affine, _ = affine_mm(image, str(path))
        numbers = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    if not ((numbers >= 0) & (numbers <= HIGHEST) & (numbers == np.rint(numbers))).all():  # NaN is none of these
        raise VolumeError(
            f"{path}: no label map, for its values are not whole numbers from 0 to {HIGHEST:,}; give a mask or labels"
        )
    values = numbers.astype(np.int32)
    present = np.flatnonzero(np.bincount(values.ravel()))
    labels = present[present > 0][:MOST_LABELS]
    index_of = np.full(int(present[-1]) + 1, UNCOUNTED, np.uint8)
    index_of[0] = 0
    index_of[labels] = np.arange(1, len(labels) + 1)
    indices, affine = to_canonical(index_of[values], affine)
    return LabelMap(indices, tuple(labels.tolist())), affine


def slices_on_grid(
    label_map: LabelMap,
    label_affine: np.ndarray,
    matrix: np.ndarray,
    shape: Sequence[int],
    affine: np.ndarray,
    axis: str,
) -> LabelMap:
    """Return a label map as slices (N, H, W) of another grid; 0 beyond its own field of view.

    The map is (X, Y, Z) with its (4, 4) affine; slices are cut along `axis`, "axial", "coronal" or "sagittal".
    `matrix`, (4, 4), leads from world points of the new grid, of `shape` and `affine`, to world points of the map.
    """
    indices = resample_onto(label_map.indices, label_affine, matrix, shape, affine, order=0)
    return LabelMap(contiguous(cut_slices(indices, axis)), label_map.labels)
