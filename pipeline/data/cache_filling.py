"""Filling a cache of slices: one job per entry, in worker processes where that pays, with unusable images reported."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.utils.console import bar, progress
from pipeline.utils.errors import UserError
from pipeline.utils.workers import run_jobs

logger = logging.getLogger(__name__)

PROGRESS_BAR_DELAY_S = 2.0  # a check of the cache that is shorter than this shows no progress bar

Item = TypeVar("Item")  # the source of an entry: a case, or a pair of cases
Entry = TypeVar("Entry")  # the cached slices of an item


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
    """Look every item up in the cache, and call `extract(*arguments)` for those that are missing.

    Args:
        extract: Function that makes one entry; raises ValueError, OSError, RuntimeError or MemoryError for bad input.
        jobs: Item -> arguments of `extract`.
        look_up: Function that returns an item's entry, or None where it is absent or damaged.
        paths: Function that returns the files of an item, which begin its message.
        title, unit: Texts of the progress bar.
        processes: Number of worker processes; None for one per core.
        on_bad_volume: "skip" warns of unusable items, "stop" raises.
        quiet: Whether to leave out the progress bars.

    Returns:
        The entries, and for each item without one the reason.

    Raises:
        UserError: an item could not be used and `on_bad_volume` is "stop"; the disk is full; a worker died.
    """
    # Look up what the cache holds already.
    items = bar(jobs, desc="checking the store", unit=unit, delay=PROGRESS_BAR_DELAY_S, disable=quiet)
    entries = {item: entry for item in items if (entry := look_up(item)) is not None}
    missing = {item: arguments for item, arguments in jobs.items() if item not in entries}

    # Extract the rest, and report each item that fails.
    failures: dict[Item, str] = {}
    results = run_jobs(extract, missing, processes, preload=["transforms.monai_transforms"])
    for item, _, reason in progress(results, total=len(missing), title=title, unit=unit, quiet=quiet or not missing):
        if reason is None and (entry := look_up(item)) is not None:
            entries[item] = entry
            continue
        failures[item] = reason = reason or "changed while it was being read; run again"
        file_names = [str(path) for path in paths(item)]
        message = reason if reason.startswith(tuple(file_names)) else f"{' and '.join(file_names)}: {reason}"
        if on_bad_volume == "stop":
            raise UserError(f"{message} (preprocess.on_bad_volume: skip would go on without it)")
        logger.warning(f"{message}; left out")
    return entries, failures
