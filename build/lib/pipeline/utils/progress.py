"""Progress without a terminal: a few lines for a log file, and none for short work."""

import math
from collections.abc import Iterable

from tqdm import tqdm as ProgressBar

LINES = 10  # at most, of one progress bar
APART_S = 60.0  # at least, between two lines
FORMAT = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} gone, {remaining} left{postfix}"


class ProgressLines(ProgressBar):
    """A progress bar that writes lines: one per tenth of the work, at least a minute apart, and none at its end."""

    def __init__(self, items: Iterable | None = None, **options: object):
        total = options.get("total") or (len(items) if hasattr(items, "__len__") else 0)
        rare = {"mininterval": APART_S, "maxinterval": math.inf, "miniters": max(1, math.ceil(total / LINES))}
        super().__init__(items, **options | rare | {"bar_format": FORMAT})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, unless no item is done yet."""
        if self.n > self.initial:
            self.fp.write(f"{self}\n")
            if not self.total:  # without a total there are no tenths: the next line comes after twice as many items
                self.miniters = self.n

    def close(self) -> None:
        """Close without a last line: the command reports the end itself."""
        if not self.disable:
            self.disable = True
            self._decr_instances(self)
