"""The fit of the expected error to the observed one, and how well the two agree."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls
from scipy.sparse import eye_array
from scipy.sparse.linalg import spsolve
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from pipeline.inference.uncertainty import Calibration, Features, nested_tuples, table_coordinates, weighted_sums
from transforms.linear_tables import entry_weights, roughness

INTENSITIES = 24  # entries of a table along the source and along the translation
SUMS = 4  # entries along the weighted sum, at evenly spread quantiles
ROUGHNESS_WEIGHT = 0.3  # of the squared second differences, against one voxel: fills what no voxel determines
RIDGE = 0.01  # of the squared distance to the mean error, for where second differences leave a table undetermined


def rank_correlation(expected: np.ndarray, observed: np.ndarray) -> float:
    """Return Spearman's rank correlation of two samples; NaN where one is constant."""
    if np.ptp(expected) == 0 or np.ptp(observed) == 0:
        return float("nan")
    # scipy.stats.spearmanr differs from this, and so from earlier runs' scores, in the last digit
    return float(np.corrcoef(rankdata(expected, axis=None), rankdata(observed, axis=None))[0, 1])


def calibration_curve(expected: np.ndarray, observed: np.ndarray, bins: int = 10) -> np.ndarray:
    """Return (bins, 2): mean expected and mean observed error of equally filled bins of rising expected error.

    There are fewer bins where there are fewer voxels. Equal columns are a perfect calibration. Voxels of equal expected
    error may fall into several bins. Their order is arbitrary, so each counts with the mean observed error of all of
    them.
    """
    levels, level = np.unique(expected.ravel().astype(float), return_inverse=True)
    level_means = np.bincount(level, observed.ravel()) / np.bincount(level)
    bins_of_levels = np.array_split(np.sort(level), min(bins, len(level)))
    curve = [(levels[indices].mean(), level_means[indices].mean()) for indices in bins_of_levels]
    return np.array(curve).reshape(-1, 2)


def calibration_error(curve: np.ndarray) -> float:
    """Return the mean distance between expected and observed error over a curve's equally filled bins."""
    return float(np.abs(curve[:, 0] - curve[:, 1]).mean())


@threadpool_limits.wrap(limits=1)  # the same digits whatever the number of threads
def fit_calibration(features: Features, errors: np.ndarray, subjects: int = 0) -> Calibration:
    """Fit the map from features to the absolute error to expect.

    The weights of cycle error and spread are a non-negative least-squares fit of the errors to the two and a constant.
    The table over source, translation and their weighted sum is a least-squares fit, too, with a penalty on second
    differences.

    `features` are those of n voxels, (n,) each, of so many subjects; `errors` |G(x) - y| of the same, (n,), from 0.
    Raises ValueError where there is no voxel.
    """
    if errors.size == 0:
        raise ValueError("no voxel to calibrate on")
    spread_weight, cycle_weight = _feature_weights(features, errors)

    # Choose where the table has entries along the weighted sum: two at least.
    sums = weighted_sums(features, cycle_weight, spread_weight)
    table_sums = np.unique(np.quantile(sums, np.linspace(0, 1, SUMS)).round(6)).tolist()
    table_sums = [table_sums[0], table_sums[0] + 1] if len(table_sums) == 1 else table_sums

    # Fit it to the distance of the errors from their mean.
    shape, mean = (INTENSITIES, INTENSITIES, len(table_sums)), errors.mean()
    weights = entry_weights(table_coordinates(features.source, features.translated, sums, table_sums, shape), shape)
    squares = weights.T @ weights + ROUGHNESS_WEIGHT * roughness(shape) + RIDGE * eye_array(weights.shape[1])
    table = mean + spsolve(squares.tocsc(), weights.T @ (errors - mean)).reshape(shape)
    table = table.clip(0, 2).round(4)
    return Calibration(cycle_weight, spread_weight, tuple(table_sums), nested_tuples(table), subjects, int(errors.size))


def join_features(parts: Sequence[Features]) -> Features:
    """Return the features of several samples of voxels as one; the cycle error of all or of none is known."""
    cycles = [part.cycle for part in parts if part.cycle is not None]
    source, translated, spread = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("source", "translated", "spread")
    )
    return Features(source, translated, np.concatenate(cycles) if cycles else None, spread)


def _feature_weights(features: Features, errors: np.ndarray) -> tuple[float, float]:
    """Return the weights of spread and cycle error, not negative; the latter is 0 where there is none."""
    columns = [column for column in (features.spread, features.cycle) if column is not None]
    scales = [float(column.std()) or 1.0 for column in columns]
    scaled = [column / scale for column, scale in zip(columns, scales, strict=True)]
    (_, *weights), _ = nnls(np.column_stack([np.ones(errors.size), *scaled]).astype(float), errors)
    if not any(weights):  # neither tells anything
        weights = [1.0] * len(columns)
    spread_weight, cycle_weight = ([weight / scale for weight, scale in zip(weights, scales, strict=True)] + [0.0])[:2]
    return spread_weight, cycle_weight
