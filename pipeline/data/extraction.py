"""Filling a store: one job an entry, in worker processes where it pays, and what becomes of images at fault."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.console import progress, warn
from pipeline.errors import UserError
from pipeline.workers import work_off

Item = TypeVar("Item")  # what an entry is made of: a case, or a pair of cases


def fill_store(
    extract: Callable[..., None],
    jobs: Mapping[Item, tuple],
    *,
    is_stored: Callable[[Item], bool],
    paths: Callable[[Item], Sequence[Path]],
    title: str,
    unit: str,
    processes: int | None,
    on_bad_volume: str,
    quiet: bool,
) -> dict[Item, str]:
    """Call `extract(*arguments)` for each job and return the reason for each item that is not in the store then.

    Args:
        extract: Makes one entry; raises ValueError, OSError, RuntimeError or MemoryError where the input is at fault.
        jobs: Item -> arguments.
        is_stored: Whether an item's entry is there and whole.
        paths: The files of an item, which a reason begins with.
        title, unit: Of the progress bar.
        processes: Worker processes; None for one per core.
        on_bad_volume: "skip" reports what cannot be used, "stop" raises.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: something could not be used and `on_bad_volume` is "stop"; the disk is full; a worker died.
    """
    failures: dict[Item, str] = {}
    ended = work_off(extract, jobs, processes, preload=["transforms.presets"])
    for item, _, reason in progress(ended, total=len(jobs), title=title, unit=unit, quiet=quiet or not jobs):
        if reason is None and not is_stored(item):
            reason = "changed while it was being read; run again"
        if reason is not None:
            failures[item] = reason
            names = [str(path) for path in paths(item)]
            line = reason if reason.startswith(tuple(names)) else f"{' and '.join(names)}: {reason}"
            if on_bad_volume == "stop":
                raise UserError(f"{line} (preprocess.on_bad_volume: skip would go on without it)")
            warn(f"warning: {line}; left out")
    return failures
