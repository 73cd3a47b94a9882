"""The atlas head that all synthetic subjects are deformations of.

The brain is the ICBM 2009a symmetric grey- and white-matter maps that nilearn ships; skull, scalp and face are drawn
around it as distance maps and ellipsoids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

Triple = tuple[float, float, float]

COARSE_STEP = 3  # mm; distance maps are smooth, so every third millimetre of the template is enough
COARSE_PADDING = 14  # coarse voxels around the template, room for skull and scalp

# Centre and radii in mm, template coordinates, right side; the left side is the mirror image.
DEEP_NUCLEI = (((12, -18, 8), (10, 14, 9)), ((26, 3, 2), (8, 17, 10)), ((13, 14, 8), (7, 11, 12)))
EYE = ((31, 58, -36), (12, 12, 12))
SINUSES = (((9, 62, -44), (8, 16, 16)), ((26, 50, -68), (13, 14, 13)))
FACE = ((0, 6, -82), (70, 90, 70))


@dataclass(frozen=True)
class Atlas:
    """The template's maps: fine ones at 1 mm, coarse ones at `COARSE_STEP` mm, each with the position of voxel 0.

    Attributes:
        grey, white: Tissue fractions in [0, 1], (197, 233, 189).
        beyond_brain_mm: Signed distance from the inside of the skull, positive outside.
        below_skin_mm: Signed distance from the surface of the head, positive inside.
        deep, eye, sinus: Soft membership of the deep nuclei, eyes and air-filled sinuses, in [0, 1].
    """

    grey: np.ndarray
    white: np.ndarray
    fine_origin_mm: np.ndarray
    beyond_brain_mm: np.ndarray
    below_skin_mm: np.ndarray
    deep: np.ndarray
    eye: np.ndarray
    sinus: np.ndarray
    coarse_origin_mm: np.ndarray


@lru_cache(maxsize=2)
def brain_maps(window_mm: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the atlas's grey and white matter averaged over cubes, for the partial volumes of larger voxels."""
    return tuple(ndimage.uniform_filter(map_, window_mm) for map_ in (load_atlas().grey, load_atlas().white))


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Read the template and build the maps around it, once per process."""
    from nilearn import datasets

    maps = datasets.load_mni152_gm_template(resolution=1), datasets.load_mni152_wm_template(resolution=1)
    grey, white = (np.asarray(image.dataobj, dtype=np.float32) for image in maps)
    fine_origin = maps[0].affine[:3, 3]

    # Build the inside of the skull and the surface of the head on the coarse grid.
    coarse = (grey + white)[::COARSE_STEP, ::COARSE_STEP, ::COARSE_STEP] > 0.4
    coarse = np.pad(coarse, ((COARSE_PADDING,) * 2,) * 3)
    coarse[:, :, :COARSE_PADDING] = coarse[:, :, COARSE_PADDING : COARSE_PADDING + 1]  # extend the neck downwards
    coarse_origin = fine_origin - COARSE_PADDING * COARSE_STEP
    skull_inside = closed(coarse, 5)
    face = ellipsoid(coarse.shape, coarse_origin, *FACE) > 0.5
    head = closed(signed_distance(closed(coarse, 25)) > -13, 13) | face
    head = closed(head, 13)
    return Atlas(
        grey=grey,
        white=white,
        fine_origin_mm=fine_origin,
        beyond_brain_mm=-ndimage.gaussian_filter(signed_distance(skull_inside), 0.8),
        below_skin_mm=ndimage.gaussian_filter(signed_distance(head), 0.8),
        deep=both_sides(coarse.shape, coarse_origin, DEEP_NUCLEI),
        eye=both_sides(coarse.shape, coarse_origin, (EYE,)),
        sinus=both_sides(coarse.shape, coarse_origin, SINUSES),
        coarse_origin_mm=coarse_origin,
    )


def closed(mask: np.ndarray, radius_mm: float) -> np.ndarray:
    """Return a coarse mask after morphological closing with a ball."""
    grown = COARSE_STEP * ndimage.distance_transform_edt(~mask) <= radius_mm
    return COARSE_STEP * ndimage.distance_transform_edt(grown) > radius_mm


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Return the distance in mm to a coarse mask's surface, positive inside."""
    inside, outside = (ndimage.distance_transform_edt(region) for region in (mask, ~mask))
    return (COARSE_STEP * (inside - outside - np.where(mask, 0.5, -0.5))).astype(np.float32)


def both_sides(shape: tuple[int, ...], origin_mm: np.ndarray, shapes: Sequence[tuple[Triple, Triple]]) -> np.ndarray:
    """Return the soft union of ellipsoids and their mirror images across the midline."""
    sides = [((side * x, y, z), radii) for (x, y, z), radii in shapes for side in (1, -1)]
    return np.max([ellipsoid(shape, origin_mm, centre, radii) for centre, radii in sides], axis=0)


def ellipsoid(shape: tuple[int, ...], origin_mm: np.ndarray, centre_mm: Triple, radii_mm: Triple) -> np.ndarray:
    """Return the soft membership in [0, 1] of an ellipsoid on the coarse grid, 0.5 on its surface."""
    axes = np.ogrid[tuple(slice(0, count) for count in shape)]
    radius = np.sqrt(
        sum(
            ((axis * COARSE_STEP + origin - centre) / half) ** 2
            for axis, origin, centre, half in zip(axes, origin_mm, centre_mm, radii_mm, strict=True)
        )
    )
    return np.clip((1 - radius) * min(radii_mm) / COARSE_STEP + 0.5, 0, 1).astype(np.float32)
