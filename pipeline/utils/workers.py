"""Worker processes: one job an image over the cores, none of which outlives the process it works for."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Thread

from pipeline.utils.errors import UserError


def run_jobs(
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
    with ProcessPoolExecutor(processes, mp_context=_context(preload), initializer=_prepare_worker) as pool:
        futures = {pool.submit(attempt, function, arguments): key for key, arguments in jobs.items()}
        try:
            for future in as_completed(futures):
                key = futures.pop(future)  # lets go of what it returned
                yield key, *_result(future)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class WorkerPool:
    """Worker processes for jobs that are handed out one at a time, whose results are taken in the caller's order.

    With a single process every job is done in this one, and no worker is started. A pool is to be entered; where the
    block ends by an error or a signal, the workers' jobs end with it, unfinished.

    Args:
        processes: Worker processes; None for one per core.
        jobs: How many there will be, where that is known: more workers than these would idle.
        preload: Modules that are slow to import; see `run_jobs`.

    Attributes:
        processes: Worker processes, 1 or more.
    """

    def __init__(self, processes: int | None, *, jobs: int | None = None, preload: Sequence[str] = ()):
        worker_count = processes or os.cpu_count() or 1
        self.processes, self._preload = worker_count if jobs is None else max(1, min(worker_count, jobs)), preload
        self._pool: ProcessPoolExecutor | None = None
        self._other_children: set[multiprocessing.Process] = set()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        if kind is not None:  # workers ignore the signals that this process heeds, and a job may take half a minute
            for worker in set(multiprocessing.active_children()) - self._other_children:
                worker.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable, *arguments: object) -> Callable[[], object]:
        """Hand out a job; return what waits for its result, and raises what the job raised.

        Args:
            function: Of a module, so that workers can import it.
            arguments: Its arguments; they travel to the worker.
        """
        if self.processes <= 1:
            result = function(*arguments)
            return lambda: result
        if self._pool is None:
            self._other_children = set(multiprocessing.active_children())
            self._pool = ProcessPoolExecutor(
                self.processes, mp_context=_context(self._preload), initializer=_prepare_worker
            )
        with _naming_dead_workers():
            future = self._pool.submit(function, *arguments)
        return lambda: _result(future)

    def imap(self, function: Callable, jobs: Iterable[tuple], lookahead: int) -> Iterator[object]:
        """Yield `function(*arguments)` for each job, in order, while workers are at the next `most` of them."""
        if self.processes <= 1:
            yield from (function(*arguments) for arguments in jobs)
            return
        pending: deque[Callable[[], object]] = deque()
        for arguments in jobs:
            pending.append(self.submit(function, *arguments))
            if len(pending) > lookahead:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()


def _result(future: Future) -> object:
    with _naming_dead_workers():
        return future.result()


@contextmanager
def _naming_dead_workers() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps out of memory; lower preprocess.processes (1 works without any)"
        ) from error


def _context(preload: Sequence[str]) -> multiprocessing.context.BaseContext:
    """Return how workers are started: by a server that has the slow modules, where the system can."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(list(preload))
    return context


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
