"""The anatomy of a synthetic head: the fraction of each tissue in each voxel.

A subject is a random smooth deformation of the atlas head, with individual folds, ventricles, layer thicknesses and a
few white-matter lesions. The atlas's brain is the ICBM 2009a symmetric grey- and white-matter maps that nilearn ships;
skull, scalp and face are drawn around it as distance maps and ellipsoids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

Triple = tuple[float, float, float]

TISSUES = ("csf", "grey", "deep_grey", "white", "lesion", "bone", "marrow", "muscle", "fat", "skin", "eye")

FIELD_OF_VIEW_MM = ((-104.0, 104.0), (-131.0, 109.0), (-74.0, 110.0))  # RAS, in template coordinates
HEAD_CENTRE_MM = np.array([0.0, -17.0, 5.0])
VENTRICLES_MM = np.array([0.0, -14.0, 14.0])
COARSE_STEP = 3  # mm; distance maps are smooth, so every third millimetre of the template is enough
COARSE_PADDING = 14  # coarse voxels around the template, room for skull and scalp

# Centre and radii in mm, template coordinates, right side; the left side is the mirror image.
DEEP_NUCLEI = (((12, -18, 8), (10, 14, 9)), ((26, 3, 2), (8, 17, 10)), ((13, 14, 8), (7, 11, 12)))
EYE = ((31, 58, -36), (12, 12, 12))
SINUSES = (((9, 62, -44), (8, 16, 16)), ((26, 50, -68), (13, 14, 13)))
FACE = ((0, 6, -82), (70, 90, 70))


@dataclass(frozen=True)
class Variety:
    """How far heads may differ from the atlas's, by default as those of one healthy adult cohort do."""

    rotation_degrees: float = 2.5  # SD about each axis, at most 2.4 SD
    size: float = 1.0  # mean scale of a head
    scale: float = 0.03  # SD of the scale along each axis, at most 2 SD
    widening: float = 1.0  # factor of how far ventricles are widened or narrowed
    displacement_mm: tuple[float, float] = (2.5, 1.1)  # SD of the smooth displacements over 45 and 16 mm
    folds: float = 0.45  # SD of the logarithm of tissue probabilities
    sharpness: float = 1.8  # power that makes tissue probabilities one subject's
    lesions: float = 3.0  # expected number
    lesion_mm: tuple[float, float] = (1.5, 4.0)  # radii


ONE_COHORT = Variety()


def grid(spacing_mm: float) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the shape (X, Y, Z) and the RAS affine (4, 4) of the field of view at an isotropic spacing."""
    width, depth, height = (round((high - low) / spacing_mm) for low, high in FIELD_OF_VIEW_MM)
    shape = (width, depth, height)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [
        (low + high - (count - 1) * spacing_mm) / 2 for count, (low, high) in zip(shape, FIELD_OF_VIEW_MM, strict=True)
    ]
    return shape, affine


def head_fractions(rng: np.random.Generator, spacing_mm: float, variety: Variety = ONE_COHORT) -> dict[str, np.ndarray]:
    """Draw one subject's head: a map (X, Y, Z) in [0, 1] per name in `TISSUES`; what they lack of 1 is air.

    Apart from sampling, the head does not depend on the spacing.
    """
    atlas = load_atlas()
    position_mm = deform(rng, spacing_mm, variety)
    fine = [axis - origin for axis, origin in zip(position_mm, atlas.fine_origin_mm, strict=True)]
    coarse = [(axis - origin) / COARSE_STEP for axis, origin in zip(position_mm, atlas.coarse_origin_mm, strict=True)]
    grey, white = (sample(map_, fine) for map_ in brain_maps(max(1, round(spacing_mm))))
    grey, white = individual_folds(rng, grey, white, spacing_mm, variety)
    beyond_brain, below_skin, deep, eye, sinus = (
        sample(map_, coarse)
        for map_ in (atlas.beyond_brain_mm, atlas.below_skin_mm, atlas.deep, atlas.eye, atlas.sinus)
    )
    lesion = white * lesions(rng, spacing_mm, variety)
    brain = {"grey": grey * (1 - deep), "deep_grey": grey * deep, "white": white - lesion, "lesion": lesion}
    shell = shell_fractions(rng, beyond_brain, below_skin, eye, sinus, spacing_mm)
    not_brain = 1 - grey - white
    return {name: brain[name] if name in brain else not_brain * shell[name] for name in TISSUES}


def shell_fractions(
    rng: np.random.Generator,
    beyond_brain: np.ndarray,
    below_skin: np.ndarray,
    eye: np.ndarray,
    sinus: np.ndarray,
    spacing_mm: float,
) -> dict[str, np.ndarray]:
    def thickness(mean_mm: float, sd_mm: float, smallest_mm: float) -> np.ndarray:
        return np.maximum(mean_mm + sd_mm * smooth_field(rng, spacing_mm, 30), smallest_mm)

    def share_beyond(distance: np.ndarray, edge: np.ndarray | float) -> np.ndarray:  # share of a voxel beyond the edge
        return np.clip((distance - edge) / spacing_mm + 0.5, 0, 1)

    # Draw the layers' thickness, and their borders from the brain outwards and from the skin inwards.
    gap, skull, fat, skin = thickness(1.5, 0.6, 0.3), thickness(6, 1, 3), thickness(3, 0.8, 1), 1.8
    beyond_gap = share_beyond(beyond_brain, gap)
    beyond_skull = share_beyond(beyond_brain, gap + skull)
    diploe = share_beyond(beyond_brain, gap + 0.35 * skull) - share_beyond(beyond_brain, gap + 0.7 * skull)
    inside_skin, inside_fat = share_beyond(below_skin, skin), share_beyond(below_skin, skin + fat)

    # Divide the soft tissue into muscle, thin sheets of fat, and facial bone.
    deep_soft = beyond_skull * inside_fat * (1 - eye) * (1 - sinus)
    planes = np.clip(1 - 2.5 * np.abs(smooth_field(rng, spacing_mm, 14)), 0, 1)
    facial_bone = np.clip(2 * smooth_field(rng, spacing_mm, 10) - 2.2, 0, 1)
    return {
        "csf": 1 - beyond_gap,
        "bone": beyond_gap - beyond_skull - 0.7 * diploe + deep_soft * facial_bone,
        "marrow": 0.7 * diploe,
        "muscle": deep_soft * (1 - facial_bone) * (1 - 0.6 * planes),
        "fat": beyond_skull * (inside_skin - inside_fat) + deep_soft * (1 - facial_bone) * 0.6 * planes,
        "skin": beyond_skull * (share_beyond(below_skin, 0) - inside_skin),
        "eye": beyond_skull * inside_fat * eye,
    }


def individual_folds(
    rng: np.random.Generator, grey: np.ndarray, white: np.ndarray, spacing_mm: float, variety: Variety
) -> tuple[np.ndarray, np.ndarray]:
    """Make the population's tissue probabilities one subject's: sharper, with randomly shifted borders."""
    weights = []
    for probability in (1 - grey - white, grey, white):
        weight = np.clip(probability, 0, 1) * np.exp(variety.folds * smooth_field(rng, spacing_mm, 6))
        weights.append(weight**variety.sharpness)
    total = np.maximum(sum(weights), 1e-6)
    return weights[1] / total, weights[2] / total


def lesions(rng: np.random.Generator, spacing_mm: float, variety: Variety = ONE_COHORT) -> np.ndarray:
    """Return the soft membership (X, Y, Z) of a few lesions in the upper white matter."""
    shape, affine = grid(spacing_mm)
    membership = np.zeros(shape, np.float32)
    reach_mm = variety.lesion_mm[1] + 2
    for _ in range(rng.poisson(variety.lesions)):
        centre_mm = np.array([rng.uniform(12, 40) * rng.choice([-1, 1]), rng.uniform(-60, 40), rng.uniform(12, 45)])
        radius_mm = rng.uniform(*variety.lesion_mm)
        first = np.floor((centre_mm - reach_mm - affine[:3, 3]) / spacing_mm).astype(int)
        last = np.ceil((centre_mm + reach_mm - affine[:3, 3]) / spacing_mm).astype(int) + 1
        box = tuple(slice(low, high) for low, high in zip(first, last, strict=True))
        axes = np.ogrid[box]
        squared = sum(
            (axis * spacing_mm + origin - centre) ** 2
            for axis, origin, centre in zip(axes, affine[:3, 3], centre_mm, strict=True)
        )
        membership[box] = np.maximum(membership[box], np.clip((radius_mm - np.sqrt(squared)) / spacing_mm + 0.5, 0, 1))
    return membership


def deform(rng: np.random.Generator, spacing_mm: float, variety: Variety = ONE_COHORT) -> list[np.ndarray]:
    """Return the template coordinates of each voxel of a subject: three (X, Y, Z) maps in mm."""
    # Draw the affine part of the deformation: rotation (degrees), anisotropic scale and shift (mm).
    shape, affine = grid(spacing_mm)
    most = 2.4 * variety.rotation_degrees
    angles = np.deg2rad(np.clip(rng.normal(0, variety.rotation_degrees, 3), -most, most))
    scales = np.clip(rng.normal(1, variety.scale, 3), 1 - 2 * variety.scale, 1 + 2 * variety.scale)
    matrix = rotation(angles) @ np.diag(1 / (variety.size * scales))
    shift_mm = np.clip(rng.normal(0, 2, 3), -4, 4)
    widening = variety.widening * np.clip(rng.normal(0.05, 0.15), -0.2, 0.35)
    axes = [
        (np.arange(count) * spacing_mm + origin - centre - shift).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (count, origin, centre, shift) in enumerate(
            zip(shape, affine[:3, 3], HEAD_CENTRE_MM, shift_mm, strict=True)
        )
    ]

    coarse_mm, fine_mm = variety.displacement_mm
    # Add smooth displacements over 45 and 16 mm, then widen or narrow around the ventricles.
    position = [
        sum(matrix[row, column] * axes[column] for column in range(3))
        + HEAD_CENTRE_MM[row]
        + coarse_mm * smooth_field(rng, spacing_mm, 45)
        + fine_mm * smooth_field(rng, spacing_mm, 16)
        for row in range(3)
    ]
    offsets = [axis - middle for axis, middle in zip(position, VENTRICLES_MM, strict=True)]
    falloff = np.exp(-sum(axis**2 for axis in offsets) / (2 * 22.0**2))
    return [axis - widening * falloff * offset for axis, offset in zip(position, offsets, strict=True)]


def rotation(angles: np.ndarray) -> np.ndarray:
    """Return the (3, 3) rotation about x, then y, then z, in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def smooth_field(rng: np.random.Generator, spacing_mm: float, length_mm: float) -> np.ndarray:
    """Return a Gaussian random field (X, Y, Z), mean 0 and variance 1, smooth over `length_mm`, alike at every spacing.

    Normal coefficients on knots `length_mm` apart are interpolated by a separable Gaussian.
    """
    shape, affine = grid(spacing_mm)
    bases = []
    for count, origin, (low, high) in zip(shape, affine[:3, 3], FIELD_OF_VIEW_MM, strict=True):
        knots = np.arange(low - length_mm, high + 2 * length_mm, length_mm)
        distance = (np.arange(count) * spacing_mm + origin)[:, None] - knots
        basis = np.exp(-0.5 * (distance / (0.7 * length_mm)) ** 2)
        bases.append(basis / np.sqrt((basis**2).sum(1, keepdims=True)))
    field = rng.standard_normal([basis.shape[1] for basis in bases])
    for basis in bases:
        field = np.tensordot(field, basis, axes=(0, 1))  # the first axis is contracted and returns as the last
    return field.astype(np.float32)


def sample(map_: np.ndarray, index: list[np.ndarray]) -> np.ndarray:
    return ndimage.map_coordinates(map_, index, order=1, mode="nearest", output=np.float32)


@dataclass(frozen=True)
class Atlas:
    """The template's maps: fine ones at 1 mm, coarse ones at `COARSE_STEP` mm, each with the position of voxel 0."""

    grey: np.ndarray  # fractions in [0, 1], (197, 233, 189)
    white: np.ndarray
    fine_origin_mm: np.ndarray
    beyond_brain_mm: np.ndarray  # signed distance from the inside of the skull, positive outside
    below_skin_mm: np.ndarray  # signed distance from the surface of the head, positive inside
    deep: np.ndarray  # soft membership in [0, 1], as eyes and air-filled sinuses
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
    dilated = COARSE_STEP * ndimage.distance_transform_edt(~mask) <= radius_mm
    return COARSE_STEP * ndimage.distance_transform_edt(dilated) > radius_mm


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Return the distance in mm to a coarse mask's surface, positive inside."""
    inside, outside = (ndimage.distance_transform_edt(region) for region in (mask, ~mask))
    return (COARSE_STEP * (inside - outside - np.where(mask, 0.5, -0.5))).astype(np.float32)


def both_sides(shape: tuple[int, ...], origin_mm: np.ndarray, shapes: Sequence[tuple[Triple, Triple]]) -> np.ndarray:
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
