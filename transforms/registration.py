"""Rigid registration of two scans of one head, and resampling onto another grid: where pairs lie on different grids.

SimpleITK optimises, but sees only images resampled onto upright isotropic grids: so oblique, sheared and flipped
source grids all work, and world coordinates stay RAS throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from transforms.threads import one_simpleitk_thread

GRID_MM = 2.0
HISTOGRAM_BINS = 32
SAME_RATIO = 1e-3  # of voxel sizes: a grid coarser by less is as fine
SEED = 1  # of the random sampling; 0 would mean the clock


@dataclass(frozen=True)
class _Upright:
    """A volume on an isotropic grid along the world's axes, and where on that grid the volume has voxels."""

    grid: np.ndarray  # (X, Y, Z) float32
    covered: np.ndarray  # (X, Y, Z) uint8, 0 or 1
    affine: np.ndarray  # (4, 4), a scaling and a shift

    @property
    def centre_of_brightness(self) -> np.ndarray:
        return apply_affine(self.affine, ndimage.center_of_mass(self.grid - self.grid.min()))


def register_rigid(
    fixed: np.ndarray, fixed_affine: np.ndarray, moving: np.ndarray, moving_affine: np.ndarray
) -> np.ndarray:
    """Find the rigid movement between two scans of one head in any two contrasts.

    Mattes mutual information (Mattes et al. 2003) where both scans have voxels, at 8, 4 and 2 mm in turn, Euler
    angles, regular-step gradient descent; deterministic. The coarsest level starts once from the headers' geometry
    and once from aligned centres of brightness; the better goes on. Where nothing found agrees better than the
    headers themselves do, their geometry (the identity) is returned.

    Args:
        fixed, moving: (X, Y, Z) finite intensities.
        fixed_affine, moving_affine: (4, 4) voxel to RAS millimetres.

    Returns:
        (4, 4) RAS millimetres to RAS millimetres: where each point of the fixed scan lies in the moving one.

    Raises:
        ValueError: an image is not 3D, constant or not finite, an affine is singular, or the optimiser fails.
    """
    _require_registrable("fixed", fixed, fixed_affine)
    _require_registrable("moving", moving, moving_affine)
    first, second = _upright(fixed, fixed_affine), _upright(moving, moving_affine)
    centred = np.eye(4)
    centred[:3, 3] = second.centre_of_brightness - first.centre_of_brightness
    found, failure = [], None
    for start in (np.eye(4), centred):
        try:
            found.append(_optimise(first, second, start, shrink=(4,), smooth_mm=(4,), sampling=(0.5,)))
        except RuntimeError as error:  # SimpleITK: no overlap, or nothing to climb
            failure = error
    if not found:
        reason = str(failure).strip().splitlines()[-1]
        raise ValueError(f"the two scans could not be registered: {reason}") from failure
    coarse = max(found, key=lambda matrix: _agreement(first, second, matrix))
    try:
        fine = _optimise(first, second, coarse, shrink=(2, 1), smooth_mm=(2, 0), sampling=(0.15, 0.04))
    except RuntimeError as error:
        raise ValueError(f"the two scans could not be registered: {str(error).strip().splitlines()[-1]}") from error
    return max((np.eye(4), fine), key=lambda matrix: _agreement(first, second, matrix))


def resample_onto(
    moving: np.ndarray,
    moving_affine: np.ndarray,
    matrix: np.ndarray,
    shape: Sequence[int],
    affine: np.ndarray,
    order: int = 1,
    fill: float = 0.0,
    low_pass: bool = True,
) -> np.ndarray:
    """Resample a volume onto another grid through a movement of the world.

    Along axes of the moving volume that the new grid samples more coarsely it is blurred first, so that what is finer
    than the new voxels is averaged and not folded into them (aliasing).

    Args:
        moving: (X, Y, Z) volume to be brought over, with its (4, 4) `moving_affine`.
        matrix: (4, 4) from a world point of the new grid to its place in the moving volume (`register_rigid`).
        shape, affine: The new grid.
        order: Of the spline: 1 linear, 0 nearest neighbour (masks and labels), 3 cubic.
        fill: Value where the moving volume has nothing.
        low_pass: Whether to blur; never done with nearest neighbours.

    Returns:
        (*shape,) array of the moving volume's type.
    """
    to_moving_voxel = np.linalg.inv(moving_affine) @ matrix @ affine
    if low_pass and order > 0:
        moving = smoothed_for(moving, np.linalg.norm(to_moving_voxel[:3, :3], axis=1))
    return ndimage.affine_transform(
        moving,
        to_moving_voxel[:3, :3],
        to_moving_voxel[:3, 3],
        output_shape=tuple(shape),
        order=order,
        mode="grid-constant",  # "constant" would give `fill` to edge voxels that rounding puts 1e-12 outside
        cval=fill,
    )


def smoothed_for(volume: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """Return a volume blurred for voxels that are larger by `ratios` along its axes; ratios up to 1 change nothing.

    Blur and the linear interpolation that follows together have the variance of the triangle that
    `transforms.spatial.resample_to_shape` averages with, whose half-width is a new voxel: ratio² / 6 square voxels, of
    which the interpolation brings 1 / 6.
    """
    for axis, ratio in enumerate(ratios):
        variance = (ratio**2 - 1) / 6
        if ratio <= 1 + SAME_RATIO:
            continue
        if variance < 0.5:  # of a Gaussian so narrow, samples have another variance
            kernel = [variance / 2, 1 - variance, variance / 2]
            volume = ndimage.correlate1d(volume, kernel, axis, mode="nearest")
        else:
            volume = ndimage.gaussian_filter1d(volume, np.sqrt(variance), axis, mode="nearest")
    return volume


def same_grid(
    shape_a: Sequence[int],
    affine_a: np.ndarray,
    shape_b: Sequence[int],
    affine_b: np.ndarray,
    tolerance_mm: float = 0.01,
) -> bool:
    """Return whether two grids have the same shape and no corner voxel apart by more than `tolerance_mm`."""
    if tuple(shape_a) != tuple(shape_b):
        return False
    corners = _corners(shape_a)
    apart_mm = np.linalg.norm(apply_affine(affine_a, corners) - apply_affine(affine_b, corners), axis=1)
    return bool(apart_mm.max() <= tolerance_mm)


def mutual_information(first: np.ndarray, second: np.ndarray, bins: int = HISTOGRAM_BINS) -> float:
    """Return the mutual information, in nats, of two images of one shape, from their joint histogram."""
    joint, _, _ = np.histogram2d(first.ravel(), second.ravel(), bins)
    joint /= joint.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float(np.sum(joint[filled] * np.log(joint[filled] / independent[filled])))


def _require_registrable(name: str, image: np.ndarray, affine: np.ndarray) -> None:
    if image.ndim != 3:
        raise ValueError(f"the {name} image has {image.ndim} axes; registration needs 3D volumes")
    if not np.isfinite(image).all():
        raise ValueError(f"the {name} image has NaN or infinite voxels; replace them before registration")
    if image.min() == image.max():
        raise ValueError(f"the {name} image is constant ({image.flat[0]:g}), so there is nothing to register")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"the {name} image's affine is singular: its voxels have no place in the world")


def _corners(shape: Sequence[int]) -> np.ndarray:
    return np.array(list(product(*((0, length - 1) for length in shape))))  # (8, 3) voxel indices


def _upright(volume: np.ndarray, affine: np.ndarray) -> _Upright:
    """Resample onto an upright grid that holds the whole volume, with its outliers clipped."""
    corners_mm = apply_affine(affine, _corners(volume.shape))
    grid_affine = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    grid_affine[:3, 3] = corners_mm.min(axis=0)
    shape = np.ceil(np.ptp(corners_mm, axis=0) / GRID_MM).astype(int) + 1
    low, high = np.percentile(volume, [0.5, 99.5])
    if low == high:
        low, high = volume.min(), volume.max()
    clipped = np.clip(volume.astype(np.float32), low, high)
    grid = resample_onto(clipped, affine, np.eye(4), shape, grid_affine, fill=float(low))
    covered = resample_onto(np.ones(volume.shape, np.uint8), affine, np.eye(4), shape, grid_affine, order=0)
    return _Upright(grid, covered, grid_affine)


def _agreement(fixed: _Upright, moving: _Upright, matrix: np.ndarray) -> float:
    """Return the mutual information over the fixed scan, at every second voxel; what the moving one lacks is dark."""
    every_second = np.diag([2.0, 2.0, 2.0, 1.0])
    seen = fixed.grid[::2, ::2, ::2]
    grid = seen.shape, fixed.affine @ every_second  # points to compare at, as of the fixed scan: no image to blur for
    moved = resample_onto(moving.grid, moving.affine, matrix, *grid, fill=float(moving.grid.min()), low_pass=False)
    inside = fixed.covered[::2, ::2, ::2] > 0
    return mutual_information(seen[inside], moved[inside])


def _optimise(
    fixed: _Upright,
    moving: _Upright,
    start: np.ndarray,
    shrink: Sequence[int],
    smooth_mm: Sequence[float],
    sampling: Sequence[float],
) -> np.ndarray:
    """Return the (4, 4) movement SimpleITK finds from a start, level by level; RuntimeError where it fails."""
    import SimpleITK as sitk

    centre = fixed.centre_of_brightness
    movement = sitk.Euler3DTransform()
    movement.SetCenter(centre.tolist())
    movement.SetMatrix(start[:3, :3].ravel().tolist(), 1e-6)
    movement.SetTranslation((apply_affine(start, centre) - centre).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricFixedMask(_simpleitk_image(fixed.covered, fixed.affine))
    method.SetMetricMovingMask(_simpleitk_image(moving.covered, moving.affine))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(sampling, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.005, numberOfIterations=100, relaxationFactor=0.8, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel(smooth_mm)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(movement, inPlace=True)
    with one_simpleitk_thread():
        method.Execute(_simpleitk_image(fixed.grid, fixed.affine), _simpleitk_image(moving.grid, moving.affine))
    return _matrix(movement)


def _simpleitk_image(grid: np.ndarray, affine: np.ndarray):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(grid.transpose(2, 1, 0))  # (Z, Y, X), SimpleITK's order
    image.SetSpacing([GRID_MM] * 3)
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _matrix(movement) -> np.ndarray:
    """Return a SimpleITK Euler3DTransform, x -> R (x - c) + c + t, as a (4, 4) matrix."""
    rotation = np.array(movement.GetMatrix()).reshape(3, 3)
    centre, translation = np.array(movement.GetCenter()), np.array(movement.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = centre + translation - rotation @ centre
    return matrix
