"""Worker processes over the cores, one job per image; no worker outlives the process that started it."""

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
    """Call a function for each job, in worker processes if there are several, and yield the results as they come.

    Args:
        function: A function of a module, so that workers can import it.
        jobs: Key -> the function's arguments.
        processes: Number of worker processes; None for one per core. With a single job or process, the jobs are done
            in this process.
        preload: Modules that are slow to import: imported once and inherited by the workers, where the system can.

    Yields:
        (key, result, None), or (key, None, reason in one line) where the input was at fault.

    Raises:
        UserError: A worker died.
    """
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    if processes <= 1:
        yield from ((key, *attempt(function, arguments)) for key, arguments in jobs.items())
        return
    with ProcessPoolExecutor(processes, mp_context=_context(preload), initializer=_prepare_worker) as pool:
        futures = {pool.submit(attempt, function, arguments): key for key, arguments in jobs.items()}
        try:
            for future in as_completed(futures):
                key = futures.pop(future)  # releases its result
                yield key, *_result(future)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class WorkerPool:
    """Worker processes for jobs that are submitted one at a time and whose results are taken in the caller's order.

    With a single process, every job is done in the calling process and no worker is started. Use the pool as a context
    manager; if the block ends by an error or a signal, running jobs are killed.

    Args:
        processes: Number of worker processes; None for one per core.
        jobs: Number of jobs, where known, so that no more workers are started.
        preload: Modules that are slow to import; see `run_jobs`.

    Attributes:
        processes: Number of worker processes, 1 or more.
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
        if kind is not None:  # workers ignore signals, and a job may take half a minute
            for worker in set(multiprocessing.active_children()) - self._other_children:
                worker.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable, *arguments: object) -> Callable[[], object]:
        """Submit a job; return a function that waits for its result, or raises the job's error.

        Args:
            function: A function of a module, so that workers can import it.
            arguments: The function's arguments, pickled for the worker.
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
        """Yield `function(*arguments)` for each job, in order, while workers do the next `lookahead` jobs."""
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
    """Return the multiprocessing context: a fork server with the slow modules preloaded, where the system has one."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(list(preload))
    return context


def attempt(function: Callable, arguments: tuple) -> tuple[object, str | None]:
    """Call a function; return (result, None), or (None, reason in one line) where the input is at fault."""
    try:
        return function(*arguments), None
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        wrapped = isinstance(error, RuntimeError) and error.__cause__  # MONAI wraps what a transform raises
        cause = error.__cause__ if wrapped else error
        return None, (str(cause).splitlines() or [type(cause).__name__])[0]


def _prepare_worker() -> None:
    """Limit a worker to one thread, since the workers fill the cores, and end it with its parent process only."""
    import torch

    from pipeline.utils.console import log_to_console

    log_to_console()
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """End this worker when its parent process ends, even if the parent was killed.

    The workers of a pool hold both ends of its queue, so none of them would notice, and all would wait forever.
    """
    Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
