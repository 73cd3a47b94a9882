"""Filling a store: one job an entry, in worker processes where it pays, and what becomes of images at fault."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from pipeline.console import progress, warn
from pipeline.errors import UserError
from pipeline.workers import end_with_parent

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
    ended = run_jobs(extract, jobs, processes)
    for item, reason in progress(ended, total=len(jobs), title=title, unit=unit, quiet=quiet or not jobs):
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


def run_jobs(
    work: Callable[..., None], jobs: Mapping[Item, tuple], processes: int | None
) -> Iterator[tuple[Item, str | None]]:
    """Do each job, in worker processes where it pays, and yield (item, reason it failed or None) as they end."""
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    if processes <= 1:
        yield from ((item, attempt(work, arguments)) for item, arguments in jobs.items())
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["transforms.presets"])  # imported once, inherited by every worker
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_worker) as pool:
        futures = {pool.submit(attempt, work, arguments): item for item, arguments in jobs.items()}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        except BrokenProcessPool as error:
            raise UserError("a worker process died, perhaps out of memory; lower preprocess.processes") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def attempt(function: Callable[..., None], arguments: tuple) -> str | None:
    """Call, and return the reason as a line when the input is at fault."""
    try:
        function(*arguments)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        cause = error.__cause__ or error  # MONAI wraps what a transform raises
        return (str(cause).splitlines() or [type(cause).__name__])[0]
    return None


def _prepare_worker() -> None:
    """Keep a worker to one thread, as the workers fill the cores; let it live and end with the process it works for."""
    import torch

    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
