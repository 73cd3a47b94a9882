"""Columns of a comparison, "region/metric": their order and headings, and which values are better."""

from collections.abc import Iterable

from pipeline.metrics import names

RANKING = "foreground/psnr"  # decides which run is the best of a direction


def in_order(columns: Iterable[str]) -> list[str]:
    """Return columns in the usual order of metrics; unknown ones come last, by name."""
    rank = {metric: index for index, metric in enumerate(names.HEADINGS)}
    return sorted(set(columns), key=lambda column: (rank.get(_metric(column), len(rank)), column))


def heading(column: str) -> str:
    """Return the heading of a column."""
    return names.HEADINGS.get(_metric(column), _metric(column).replace("_", " "))


def arrow(column: str) -> str:
    """See `pipeline.metrics.names.arrow`."""
    return names.arrow(_metric(column))


def badness(column: str, value: float) -> float:
    """See `pipeline.metrics.names.badness`."""
    return names.badness(_metric(column), value)


def tested(column: str, value: float) -> float:
    """Return the value used for differences: the figure, or its distance from 1 where 1 is best."""
    return abs(value - 1) if names.one_is_best(_metric(column)) else value


def higher_is_better(column: str) -> bool:
    """Whether a higher `tested` value is an improvement."""
    return names.higher_is_better(_metric(column))


def digits(column: str) -> int:
    """See `pipeline.metrics.names.digits`."""
    return names.digits(_metric(column))


def difference_heading(column: str) -> str:
    """Return the heading over differences in a column."""
    return f"|{heading(column)} - 1|" if names.one_is_best(_metric(column)) else heading(column)


def _metric(column: str) -> str:
    return column.partition("/")[2]
