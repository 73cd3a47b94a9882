"""Checks of what a file says of its model besides the weights, before any volume is read."""

import math
from collections.abc import Collection, Mapping

from pipeline.data.statistics import ContrastStatistics
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings


def require_usable(
    contrasts: tuple[str, str],
    targets: Collection[str],
    statistics: Mapping[str, ContrastStatistics],
    stride: int,
    settings: PreprocessSettings,
) -> None:
    """Check that a model can translate to its targets, a contrast each.

    Raises:
        ValueError: A target is none of the two contrasts or its intensities are no range, the stride is no whole number
            above 0, or this release does not know the version of the preprocessing.
        TypeError: An intensity is no number.
    """
    for to in targets:
        if contrasts[0] == contrasts[1] or to not in contrasts:
            raise ValueError(f"it makes {to} of the contrasts {' and '.join(map(str, contrasts))}")
        if to not in statistics:
            raise ValueError(f"the intensities of {to} are missing")
        low, high = statistics[to].low, statistics[to].high
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"the intensities of {to} go from {low} to {high}")
    if type(stride) is not int or stride < 1:
        raise ValueError(f"its stride is {stride!r}")
    if settings.version not in range(1, CHAIN_VERSION + 1):
        raise ValueError(f"its preprocessing is of version {settings.version}, and 1 to {CHAIN_VERSION} are known here")
