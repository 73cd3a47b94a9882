"""Rigid registration of two scans of one head, and resampling onto another grid, for pairs on different grids.

SimpleITK optimises on images resampled to upright isotropic grids. So oblique, sheared and flipped source grids all
work, and world coordinates stay RAS throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from skimage.metrics import normalized_mutual_information

from transforms.intensity import one_simpleitk_thread

GRID_MM = 2.0
HISTOGRAM_BINS = 32
TOLERANCE_MM = 0.01  # between corners of grids that count as one
RATIO_TOLERANCE = 1e-3  # grids whose voxel sizes differ by less count as equally fine
SEED = 1  # seed of the random sampling; 0 would seed from the clock


@dataclass(frozen=True)
class _UprightVolume:
    """A volume on an isotropic grid along the world axes, and a mask of where the volume has voxels."""

    grid: np.ndarray  # (X, Y, Z) float32
    covered: np.ndarray  # (X, Y, Z) uint8, 0 or 1
    affine: np.ndarray  # (4, 4), scaling and translation

    @property
    def centre_of_brightness(self) -> np.ndarray:
        return apply_affine(self.affine, ndimage.center_of_mass(self.grid - self.grid.min()))


def register_rigid(
    fixed: np.ndarray, fixed_affine: np.ndarray, moving: np.ndarray, moving_affine: np.ndarray
) -> np.ndarray:
    """Find the rigid transform between two scans of one head in any two contrasts.

    Mattes mutual information (Mattes et al. 2003) where both scans have voxels, at 8, 4 and 2 mm in turn, Euler
    angles, regular-step gradient descent; deterministic. The coarsest level starts once from the headers' geometry
    and once from aligned centres of brightness; the better result is refined. The headers' geometry (the identity) is
    returned where no result aligns the scans better.

    Args:
        fixed: (X, Y, Z) finite intensities.
        fixed_affine: (4, 4) voxel to RAS millimetres.
        moving: (X, Y, Z) finite intensities.
        moving_affine: (4, 4) voxel to RAS millimetres.

    Returns:
        (4, 4), from points of the fixed scan to points of the moving scan, both in RAS millimetres.

    Raises:
        ValueError: the optimiser fails, as for constant volumes.
    """
    first, second = _upright_volume(fixed, fixed_affine), _upright_volume(moving, moving_affine)

    # Coarse alignment from two starts.
    centred = np.eye(4)
    centred[:3, 3] = second.centre_of_brightness - first.centre_of_brightness
    candidates, failures = [], []
    for start in (np.eye(4), centred):
        try:
            candidates.append(_optimise(first, second, start, shrink=(4,), smooth_mm=(4,), sampling=(0.5,)))
        except ValueError as error:
            failures.append(error)
    if not candidates:
        raise failures[-1]
    coarse = max(candidates, key=lambda matrix: _alignment_score(first, second, matrix))

    # Refine the better one, and keep it only if it aligns better than the headers.
    fine = _optimise(first, second, coarse, shrink=(2, 1), smooth_mm=(2, 0), sampling=(0.15, 0.04))
    return max((np.eye(4), fine), key=lambda matrix: _alignment_score(first, second, matrix))


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
    """Resample a volume (X, Y, Z) with its (4, 4) affine onto the grid of another shape and affine; its type stays.

    `matrix`, (4, 4), leads from world points of the new grid to world points of the moving volume (`register_rigid`).
    Along axes that the new grid samples more coarsely, the moving volume is low-pass filtered first, so that detail
    finer than the new voxels is averaged instead of aliased, unless `low_pass` is off. `order` is that of the spline: 1
    linear, 0 nearest neighbour (masks and labels, never filtered), 3 cubic. Outside the moving volume the value is
    `fill`.
    """
    to_moving_voxel = np.linalg.inv(moving_affine) @ matrix @ affine
    if low_pass and order > 0:
        moving = low_pass_filter(moving, np.linalg.norm(to_moving_voxel[:3, :3], axis=1))
    return ndimage.affine_transform(
        moving,
        to_moving_voxel[:3, :3],
        to_moving_voxel[:3, 3],
        output_shape=tuple(shape),
        order=order,
        mode="grid-constant",  # "constant" would give `fill` to edge voxels that rounding puts 1e-12 outside
        cval=fill,
    )


def low_pass_filter(volume: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """Return a volume blurred for voxels that are larger by `ratios` along its axes; ratios up to 1 change nothing.

    Blur and subsequent linear interpolation together have the variance of the triangle filter of
    `transforms.spatial.resample_to_shape`, whose half-width is one new voxel: ratio² / 6 square voxels, of which the
    interpolation contributes 1 / 6.
    """
    for axis, ratio in enumerate(ratios):
        variance = (ratio**2 - 1) / 6
        if ratio <= 1 + RATIO_TOLERANCE:
            continue
        if variance < 0.5:  # a sampled Gaussian this narrow would have another variance
            kernel = [variance / 2, 1 - variance, variance / 2]
            volume = ndimage.correlate1d(volume, kernel, axis, mode="nearest")
        else:
            volume = ndimage.gaussian_filter1d(volume, np.sqrt(variance), axis, mode="nearest")
    return volume


def same_grid(shape_a: Sequence[int], affine_a: np.ndarray, shape_b: Sequence[int], affine_b: np.ndarray) -> bool:
    """Return whether two grids have the same shape and corner voxels no further apart than `TOLERANCE_MM`."""
    if tuple(shape_a) != tuple(shape_b):
        return False
    corners = _corners(shape_a)
    distance_mm = np.linalg.norm(apply_affine(affine_a, corners) - apply_affine(affine_b, corners), axis=1)
    return bool(distance_mm.max() <= TOLERANCE_MM)


def _corners(shape: Sequence[int]) -> np.ndarray:
    return np.array(list(product(*((0, length - 1) for length in shape))))  # (8, 3) voxel indices


def _upright_volume(volume: np.ndarray, affine: np.ndarray) -> _UprightVolume:
    """Return a volume resampled onto an upright grid that contains all of it, with outliers clipped."""
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
    return _UprightVolume(grid, covered, grid_affine)


def _alignment_score(fixed: _UprightVolume, moving: _UprightVolume, matrix: np.ndarray) -> float:
    """Return the normalised mutual information at every second voxel of the fixed scan; dark outside the moving."""
    every_second = np.diag([2.0, 2.0, 2.0, 1.0])
    fixed_values = fixed.grid[::2, ::2, ::2]
    grid = fixed_values.shape, fixed.affine @ every_second  # sample points: no filter needed
    moving_values = resample_onto(
        moving.grid, moving.affine, matrix, *grid, fill=float(moving.grid.min()), low_pass=False
    )
    is_covered = fixed.covered[::2, ::2, ::2] > 0
    return float(
        normalized_mutual_information(fixed_values[is_covered], moving_values[is_covered], bins=HISTOGRAM_BINS)
    )


def _optimise(
    fixed: _UprightVolume,
    moving: _UprightVolume,
    start: np.ndarray,
    shrink: Sequence[int],
    smooth_mm: Sequence[float],
    sampling: Sequence[float],
) -> np.ndarray:
    """Return the (4, 4) transform that SimpleITK finds from a start, level by level; ValueError where it fails."""
    import SimpleITK as sitk

    # Start from the given transform, rotating about the head's centre.
    centre = fixed.centre_of_brightness
    euler_transform = sitk.Euler3DTransform()
    euler_transform.SetCenter(centre.tolist())
    euler_transform.SetMatrix(start[:3, :3].ravel().tolist(), 1e-6)
    euler_transform.SetTranslation((apply_affine(start, centre) - centre).tolist())

    # Maximise mutual information where both scans have voxels.
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
    method.SetInitialTransform(euler_transform, inPlace=True)
    try:
        with one_simpleitk_thread():
            method.Execute(_simpleitk_image(fixed.grid, fixed.affine), _simpleitk_image(moving.grid, moving.affine))
    except RuntimeError as error:  # no overlap, or no gradient
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"the two scans could not be registered: {reason}") from error
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(euler_transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = euler_transform.TransformPoint((0.0, 0.0, 0.0))
    return matrix


def _simpleitk_image(grid: np.ndarray, affine: np.ndarray):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(grid.transpose(2, 1, 0))  # (Z, Y, X), SimpleITK's order
    image.SetSpacing([GRID_MM] * 3)
    image.SetOrigin(affine[:3, 3].tolist())
    return image
