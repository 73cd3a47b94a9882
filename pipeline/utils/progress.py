"""Progress where there is no terminal to draw it on: a few lines for a log, and none for what is quickly done."""

import math
from collections.abc import Iterable

from tqdm import tqdm as ProgressBar

LINES = 10  # at most, of one piece of work
APART_S = 60.0
FORMAT = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} gone, {remaining} left{postfix}"


class ProgressLines(ProgressBar):
    """A progress bar that writes lines: one a tenth of the work, a minute apart or more, and none at its end."""

    def __init__(self, items: Iterable | None = None, **options: object):
        total = options.get("total") or (len(items) if hasattr(items, "__len__") else 0)
        rare = {"mininterval": APART_S, "maxinterval": math.inf, "miniters": max(1, math.ceil(total / LINES))}
        super().__init__(items, **options | rare | {"bar_format": FORMAT})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, unless nothing is done yet."""
        if self.n > self.initial:
            self.fp.write(f"{self}\n")
            if not self.total:  # so nobody knows what a tenth is: after twice as much
                self.miniters = self.n

    def close(self) -> None:
        """End without a line: what was worked on says that it is done."""
        if not self.disable:
            self.disable = True
            self._decr_instances(self)
