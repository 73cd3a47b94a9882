"""Worker processes: one job an image over the cores, none of which outlives the process it works for."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from threading import Thread

from pipeline.errors import UserError


def work_off(
    function: Callable, jobs: Mapping[Hashable, tuple], processes: int | None, *, preload: Sequence[str] = ()
) -> Iterator[tuple[Hashable, object, str | None]]:
    """Call a function for each job, in worker processes where it pays, and yield what came of it as it ends.

    Args:
        function: Of a module, so that workers can import it.
        jobs: Key -> the function's arguments.
        processes: Worker processes; None for one per core. A single job, or process, is worked off in this one.
        preload: Modules that are slow to import: imported once, inherited by every worker where the system can.

    Yields:
        (key, what the function returned, None), or (key, None, the reason as a line) where its input was at fault.

    Raises:
        UserError: a worker died.
    """
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    if processes <= 1:
        yield from ((key, *attempt(function, arguments)) for key, arguments in jobs.items())
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(list(preload))
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_worker) as pool:
        futures = {pool.submit(attempt, function, arguments): key for key, arguments in jobs.items()}
        try:
            for future in as_completed(futures):
                key = futures.pop(future)  # lets go of what it returned
                yield key, *future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, perhaps out of memory; lower preprocess.processes (1 works without any)"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def attempt(function: Callable, arguments: tuple) -> tuple[object, str | None]:
    """Call, and return (result, None), or (None, the reason as a line) when the input is at fault."""
    try:
        return function(*arguments), None
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        wrapped = isinstance(error, RuntimeError) and error.__cause__  # MONAI wraps what a transform raises
        cause = error.__cause__ if wrapped else error
        return None, (str(cause).splitlines() or [type(cause).__name__])[0]


def _prepare_worker() -> None:
    """Keep a worker to one thread, as the workers fill the cores; let it live and end with the process it works for."""
    import torch

    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Have this worker end when the process that started it does, even when that one was killed.

    The workers of a pool hold both ends of its queue, so none of them would notice and all would wait for ever.
    """
    Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
