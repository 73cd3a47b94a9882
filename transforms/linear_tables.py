"""Tables of values at the corners of a grid, linear between them, fitted to data by least squares."""

from collections.abc import Sequence
from functools import reduce
from itertools import product

import numpy as np
from scipy.sparse import csr_array, diags_array, eye_array, kron


def entry_weights(coordinates: Sequence[np.ndarray], shape: Sequence[int]) -> csr_array:
    """Return the weight of every entry of a table for values at coordinates, (n, entries) float: 2^axes are not 0.

    Coordinates are (n,) by axis, from 0 to the number of entries along it - 1; the table has two along each axis at
    least.
    """
    lower = [np.minimum(axis.astype(np.intp), levels - 2) for axis, levels in zip(coordinates, shape, strict=True)]
    share = [axis - corner for axis, corner in zip(coordinates, lower, strict=True)]
    entries, weights = [], []
    for offsets in product((0, 1), repeat=len(shape)):  # the corners about each value
        corners = [corner + offset for corner, offset in zip(lower, offsets, strict=True)]
        entries.append(np.ravel_multi_index(corners, shape))
        weights.append(reduce(np.multiply, (p if o else 1 - p for p, o in zip(share, offsets, strict=True))))
    count = len(coordinates[0])  # whose entries follow each other, ascending: nothing has to be sorted
    rows = np.arange(count + 1) * len(entries)
    columns, values = (np.stack(parts, axis=1).ravel() for parts in (entries, weights))
    return csr_array((values, columns, rows), shape=(count, int(np.prod(shape))))


def roughness(shape: Sequence[int]) -> csr_array:
    """Return (entries, entries) of the quadratic form that sums a table's squared second differences along its axes."""
    forms = []
    for axis, levels in enumerate(shape):
        differences = diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(max(levels - 2, 0), levels))
        before, after = (eye_array(int(np.prod(others))) for others in (shape[:axis], shape[axis + 1 :]))
        forms.append(kron(kron(before, differences.T @ differences), after))
    return csr_array(sum(forms))
