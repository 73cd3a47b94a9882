"""The moments of writing a checkpoint at which a machine may die, each struck exactly."""

import io
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from pipeline.runs.checkpoint import CheckpointFolder


def die() -> None:
    """End this process as a power cut would: nothing is cleaned up, closed or flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


class HalfWay:
    """A stream that is the death of the process when so many bytes are written, and on their way to the disk."""

    def __init__(self, stream, most: int):
        self.stream, self.left = stream, most

    def write(self, content) -> int:
        part = memoryview(content)[: self.left]
        self.left -= len(part)
        self.stream.write(part)
        if not self.left:
            self.stream.flush()
            die()
        return len(part)

    def flush(self) -> None:
        self.stream.flush()


class Crash:
    """Dies in the second checkpoint that this process writes, or in the first that is the best so far.

    `install`, called in a process of its own, changes what saving calls; nothing is put back.
    """

    def __init__(self, point: Callable[["Crash"], None], *, best: bool = False):
        self.point, self.best, self.saves, self.armed = point, best, 0, False

    def install(self) -> None:
        save = CheckpointFolder.save

        def counted(folder, state, *, best=(), start=None):
            self.saves += 1
            self.armed = bool(best) if self.best else self.saves == 2
            save(folder, state, best=best, start=start)
            self.armed = False

        CheckpointFolder.save = counted
        self.point(self)

    def around(self, owner: object, name: str, *, after: bool = False, to: str | None = None) -> None:
        """Die before or after a call; of several, the one whose first argument is a path of the name `to`."""
        function = getattr(owner, name)

        def deadly(*arguments, **options):
            struck = self.armed and (to is None or arguments[-1].name == to)
            if struck and not after:
                die()
            result = function(*arguments, **options)
            if struck:
                die()
            return result

        setattr(owner, name, deadly)


def die_at_byte(step: int, share: float) -> None:
    """Have this process die when that share of the first checkpoint after so many steps, or more, is written."""
    write = torch.save

    def deadly(state, stream):
        if state["position"]["step"] >= step:
            whole = io.BytesIO()
            write(state, whole)
            stream = HalfWay(stream, int(share * len(whole.getbuffer())))
        write(state, stream)

    torch.save = deadly


def _half_written(crash: Crash) -> None:
    write = torch.save

    def halved(state, stream):
        write(state, HalfWay(stream, 20_000) if crash.armed else stream)

    torch.save = halved


def _around(owner: object, name: str, **how) -> Callable[[Crash], None]:
    return lambda crash: crash.around(owner, name, **how)


POINTS = {  # in the order of their moments; those of the best checkpoint first, whose epoch is an early one
    "before best is replaced": partial(Crash, _around(Path, "replace", to="best.pt"), best=True),
    "best replaced, latest not": partial(Crash, _around(Path, "replace", to="best.pt", after=True), best=True),
    "best made latest": partial(Crash, _around(Path, "replace", to="latest.pt", after=True), best=True),
    "after pruning": partial(Crash, _around(Path, "hardlink_to")),
    "before previous is replaced": partial(Crash, _around(Path, "replace", to="previous.pt")),
    "previous replaced": partial(Crash, _around(Path, "replace", to="previous.pt", after=True)),
    "temporary file open": partial(Crash, _around(torch, "save")),
    "half written": partial(Crash, _half_written),
    "written, not closed": partial(Crash, _around(torch, "save", after=True)),
    "before fsync": partial(Crash, _around(os, "fsync")),
    "after fsync": partial(Crash, _around(os, "fsync", after=True)),
    "before latest is replaced": partial(Crash, _around(Path, "replace", to="latest.pt")),
    "latest replaced": partial(Crash, _around(Path, "replace", to="latest.pt", after=True)),
}
