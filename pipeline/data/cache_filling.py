"""Filling a store: one job an entry, in worker processes where it pays, and what becomes of images at fault."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.utils.console import bar, progress, warn
from pipeline.utils.errors import UserError
from pipeline.utils.workers import run_jobs

SHOWN_AFTER_S = 2.0  # that a look through the store takes

Item = TypeVar("Item")  # what an entry is made of: a case, or a pair of cases
Entry = TypeVar("Entry")  # what the store then has of it


def fill_cache(
    extract: Callable[..., None],
    jobs: Mapping[Item, tuple],
    *,
    look_up: Callable[[Item], Entry | None],
    paths: Callable[[Item], Sequence[Path]],
    title: str,
    unit: str,
    processes: int | None,
    on_bad_volume: str,
    quiet: bool,
) -> tuple[dict[Item, Entry], dict[Item, str]]:
    """Make sure that the store has every item: look each up, and call `extract(*arguments)` for those it lacks.

    Args:
        extract: Makes one entry; raises ValueError, OSError, RuntimeError or MemoryError where the input is at fault.
        jobs: Item -> arguments.
        look_up: Returns an item's entry; None where it is not there or not whole.
        paths: The files of an item, which a reason begins with.
        title, unit: Of the progress bar.
        processes: Worker processes; None for one per core.
        on_bad_volume: "skip" reports what cannot be used, "stop" raises.
        quiet: Whether to leave out the progress bars; that of looking is seen where it takes long.

    Returns:
        The entries that are there, and the reason for each item that is not.

    Raises:
        UserError: something could not be used and `on_bad_volume` is "stop"; the disk is full; a worker died.
    """
    looking = bar(jobs, desc="checking the store", unit=unit, delay=SHOWN_AFTER_S, disable=quiet)
    found = {item: entry for item in looking if (entry := look_up(item)) is not None}
    missing = {item: arguments for item, arguments in jobs.items() if item not in found}
    failures: dict[Item, str] = {}
    ended = run_jobs(extract, missing, processes, preload=["transforms.slice_chain"])
    for item, _, reason in progress(ended, total=len(missing), title=title, unit=unit, quiet=quiet or not missing):
        if reason is None and (entry := look_up(item)) is not None:
            found[item] = entry
            continue
        failures[item] = reason = reason or "changed while it was being read; run again"
        names = [str(path) for path in paths(item)]
        line = reason if reason.startswith(tuple(names)) else f"{' and '.join(names)}: {reason}"
        if on_bad_volume == "stop":
            raise UserError(f"{line} (preprocess.on_bad_volume: skip would go on without it)")
        warn(f"warning: {line}; left out")
    return found, failures
