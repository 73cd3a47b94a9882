"""Measures of agreement between a prediction and the real image: pure functions on 2D slices or 3D volumes."""

import math

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from skimage.metrics import normalized_mutual_information

DATA_RANGE = 2.0  # of intensities in [-1, 1]
SSIM_WINDOW = 11  # voxels along each axis: a Gaussian of sigma 1.5 cut off at 3.5 sigma
_WEIGHTS = [math.exp(-(distance**2) / (2 * 1.5**2)) for distance in range(SSIM_WINDOW // 2 + 1)]  # from its centre out
_WEIGHTS = [weight / (_WEIGHTS[0] + 2 * sum(_WEIGHTS[1:])) for weight in _WEIGHTS]
NMI_BINS = 64  # of each image: with 100,000 voxels the bias of so fine a joint histogram is about 0.002


def mae(prediction: np.ndarray, real: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the mean absolute error of images of one shape, 2D or 3D, in their unit; voxels of a bool mask alone
    count.

    ValueError: the shapes differ, or the mask is empty.
    """
    predicted, actual = _selected(prediction, real, mask)
    return float(np.mean(np.abs(predicted - actual), dtype=np.float64))


def nrmse(prediction: np.ndarray, real: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the "min-max" NRMSE: the root mean square error divided by max - min of the real voxels in the mask.

    The prediction's own range is not used. NaN where the real voxels are constant.
    Arguments and errors as in `mae`.
    """
    predicted, actual = _selected(prediction, real, mask)
    extent = float(actual.max()) - float(actual.min())
    return float(np.sqrt(_mean_square(predicted, actual)) / extent) if extent > 0 else float("nan")


def psnr(prediction: np.ndarray, real: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Return the peak signal-to-noise ratio 10 log10(data_range² / MSE) in dB; inf for identical images.

    NaN if a voxel is. `data_range` is the range the images may take (2 for [-1, 1]), not what they happen to take.
    Other arguments and errors as in `mae`.
    """
    error = _mean_square(*_selected(prediction, real, mask))
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def calibrated_psnr(
    prediction: np.ndarray, real: np.ndarray, data_range: float, mask: np.ndarray | None = None
) -> float:
    """Return the PSNR after the gain and offset of the prediction that suit the real image best.

    With real ≈ a · prediction + b by least squares over the mask, the remaining mean square error is the real
    variance · (1 - r²), r Pearson's correlation. So it forgives a wrong scale, and an inverted contrast too (a < 0);
    never lower than `psnr`. A constant prediction is left with the real image's variance. Arguments, errors and inf as
    in `psnr`.
    """
    predicted, actual = (values.astype(np.float64).ravel() for values in _selected(prediction, real, mask))
    predicted -= predicted.mean()
    actual -= actual.mean()
    square = float(predicted @ predicted)
    gain = float(predicted @ actual) / square if square > 0 else 0.0
    return psnr(gain * predicted, actual, data_range)


def ssim(prediction: np.ndarray, real: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Return the structural similarity of Wang et al. 2004, with its Gaussian window of sigma 1.5.

    scikit-image's definition: windows of 11 voxels a side in 2D or 3D, population covariance, K1 0.01, K2 0.03. Without
    a mask the mean leaves out a border of 5 voxels, as scikit-image does; with one it is the mean of the SSIM map over
    the mask, border included. Arguments and errors as in `psnr`, and ValueError: an axis is shorter than the window.
    """
    similarity = ssim_map(prediction, real, data_range)
    if mask is None:
        return mean_inside_border(similarity)
    return float(np.mean(_masked(similarity, mask), dtype=np.float64))


def ssim_map(prediction: np.ndarray, real: np.ndarray, data_range: float) -> np.ndarray:
    """Return SSIM at every voxel, in the images' shape; definition and errors as in `ssim`."""
    _require_same_shape(prediction, real)
    if min(real.shape) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs at least {SSIM_WINDOW} voxels along each axis for its window, and the image is "
            f"{'x'.join(map(str, real.shape))}"
        )
    x, y = (np.asarray(image, dtype=np.result_type(image, np.float32)) for image in (prediction, real))
    mean_x, mean_y, covariance, variances = _windowed(np.stack([x, y, x * y, x * x + y * y]))
    products = mean_x * mean_y
    covariance -= products
    squares = np.square(mean_x, out=mean_x)
    squares += np.square(mean_y, out=mean_y)
    variances -= squares  # the sum of both images' variances, which is all that SSIM needs

    # Equation 13 of the paper, in place.
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    for term, constant in ((products, c1), (covariance, c2)):
        term *= 2
        term += constant
    squares += c1
    variances += c2
    products *= covariance
    squares *= variances
    products /= squares
    return products


def possible_ssim_map(prediction: np.ndarray, real: np.ndarray, data_range: float) -> np.ndarray | None:
    """Return `ssim_map`; None where an axis is shorter than the window."""
    return ssim_map(prediction, real, data_range) if min(real.shape) >= SSIM_WINDOW else None


def _windowed(images: np.ndarray) -> np.ndarray:
    """Return images (N, …) averaged with SSIM's Gaussian window along each of their axes, mirrored at the border.

    The window is separable, so images are averaged along one axis after the other, as sums of shifted images;
    `scipy.ndimage.gaussian_filter` gives the same. Volumes are averaged in pieces along another axis: a piece stays in
    a core's cache, while a whole volume would be read from memory for every shift.
    """
    averaged = torch.from_numpy(images)
    for axis in range(1, images.ndim):
        if images.ndim < 4:
            averaged = _averaged_along(axis, averaged)
            continue
        split_axis = 1 if axis > 1 else 2  # the axis that is cut
        for piece in averaged.split(1, split_axis):
            piece.copy_(_averaged_along(axis, piece))
    return averaged.numpy()


def _averaged_along(axis: int, images: torch.Tensor) -> torch.Tensor:
    """Return images averaged with the window along one axis, mirrored at its ends."""
    length, radius = images.shape[axis], SSIM_WINDOW // 2
    first, last = images.narrow(axis, 0, radius), images.narrow(axis, length - radius, radius)
    extended = torch.cat([first.flip(axis), images, last.flip(axis)], axis)
    averaged = extended.narrow(axis, radius, length) * _WEIGHTS[0]
    for distance, weight in enumerate(_WEIGHTS[1:], 1):
        for start in (radius - distance, radius + distance):
            averaged.add_(extended.narrow(axis, start, length), alpha=weight)
    return averaged


def mean_inside_border(similarity: np.ndarray) -> float:
    """Return the mean of an SSIM map without the border in which half a window would leave the image."""
    border = SSIM_WINDOW // 2
    inside = similarity[(slice(border, -border),) * similarity.ndim]
    return float(np.mean(inside, dtype=np.float64))


def nmi(prediction: np.ndarray, real: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the normalised mutual information (H(A) + H(B)) / H(A, B) of Studholme et al. 1999, from 1 to 2.

    1: the images are independent, as a constant one always is; 2: each intensity of one image corresponds to a single
    intensity of the other. Any one-to-one map counts, so an inverted contrast is as good as the right one: NMI measures
    whether structure is kept, not whether intensities are right. scikit-image's definition, with 64 equal bins over
    each image's own range within the mask. NaN where the real voxels are constant, or a voxel is not finite. Arguments
    and errors as in `mae`.
    """
    predicted, actual = _selected(prediction, real, mask)
    if not np.isfinite(predicted).all() or not np.isfinite(actual).all() or actual.min() == actual.max():
        return float("nan")
    return float(normalized_mutual_information(actual, predicted, bins=NMI_BINS))


def slice_ratio(prediction: np.ndarray, real: np.ndarray, mask: np.ndarray) -> float:
    """Return how much neighbouring slices differ, as a multiple of the real image's difference: 1 is best.

    The mean |a[z + 1] - a[z]| of the prediction over that of the real image. Above 1 the slices jump, as slices that
    are translated one by one may; below 1 the volume is too smooth along the axis that was sliced, or blurred
    altogether. The figure holds for both planes that slicing cuts across (coronal and sagittal for axial slices): each
    shows every pair of neighbouring voxels along the sliced axis once, so the two planes' figures are one and the same.
    A real target that was resampled onto another grid is smoother than its scan, which raises the ratio.

    All are (N, H, W), N the sliced axis; pairs count that lie in the mask with both voxels. NaN for a single slice, no
    pair in the mask, or a real image that does not change across slices.
    """
    _require_same_shape(prediction, real)
    pair_mask = mask[1:] & mask[:-1]
    if not pair_mask.any():
        return float("nan")
    change, real_change = (
        float(np.abs(np.diff(image, axis=0))[pair_mask].mean(dtype=np.float64)) for image in (prediction, real)
    )
    return change / real_change if real_change > 0 else float("nan")


def intensity_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Wasserstein-1 distance between two samples of intensities, in their unit: for use without pairs.

    It is the smallest mean change of intensities that turns one histogram into the other; positions in the image do not
    matter. The samples may have any shapes and different sizes, but for an empty one (ValueError).
    """
    return float(wasserstein_distance(np.ravel(first), np.ravel(second)))


def _selected(prediction: np.ndarray, real: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    _require_same_shape(prediction, real)
    return (prediction, real) if mask is None else (_masked(prediction, mask), _masked(real, mask))


def _masked(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if mask.shape != image.shape:
        raise ValueError(f"the mask has shape {mask.shape} and the image {image.shape}; they must match")
    if not mask.any():
        raise ValueError("the mask is empty: there is no voxel to measure")
    return image[mask]


def _mean_square(prediction: np.ndarray, real: np.ndarray) -> float:
    return float(np.mean(np.square(np.subtract(prediction, real, dtype=np.float64))))


def _require_same_shape(prediction: np.ndarray, real: np.ndarray) -> None:
    if prediction.shape != real.shape:
        raise ValueError(
            f"the prediction has shape {prediction.shape} and the real image {real.shape}; they must match"
        )
