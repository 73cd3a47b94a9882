"""Worker processes over the cores, one job per image; no worker outlives the process that started it."""

import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Thread
from typing import Any, Self, TypeVar

from pipeline.utils.console import log_to_console, logs_to_console
from pipeline.utils.errors import UserError, first_line

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
Job = tuple[Any, ...]  # the arguments of a function
LOOKAHEAD = 4  # jobs for each worker, so that none waits while one of them takes long


class WorkerPool:
    """Worker processes for jobs whose results are taken in the caller's order.

    With a single process, every job is done in the calling process and no worker is started. Use the pool as a context
    manager; if the block ends by a signal, running jobs are killed; after an error they end first.

    Args:
        processes: Number of worker processes; None for one per core.
        jobs: Number of jobs, where known, so that no more workers are started.
        preload: Modules that are slow to import: imported once and inherited by the workers, where the system can.
    """

    def __init__(self, processes: int | None, *, jobs: int | None = None, preload: Sequence[str] = ()):
        worker_count = processes or os.cpu_count() or 1
        self.processes = worker_count if jobs is None else max(1, min(worker_count, jobs))
        self._preload = preload
        self._pool: ProcessPoolExecutor | None = None
        self._other_children: set[int | None] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        # A signal does not wait for jobs, of which one may take half a minute. An error does: a pool whose workers are
        # killed may wait for them for ever.
        if kind is not None and not issubclass(kind, (Exception, GeneratorExit)):
            for worker in multiprocessing.active_children():
                if worker.pid not in self._other_children:
                    worker.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable[..., Result], *arguments: object) -> Callable[[], Result]:
        """Submit a job; return a function that waits for its result, or raises the job's error.

        The workers are started with the first job. `UserError`: one has died.
        """
        if self.processes <= 1:
            result = function(*arguments)
            return lambda: result
        if self._pool is None:
            self._other_children = {child.pid for child in multiprocessing.active_children()}
            self._pool = ProcessPoolExecutor(
                self.processes,
                mp_context=_context(self._preload),
                initializer=_prepare_worker,
                initargs=(logs_to_console(), logging.getLogger("pipeline").getEffectiveLevel()),
            )
        with naming_dead_workers():
            future = self._pool.submit(function, *arguments)
        return lambda: _result(future)

    def imap(self, function: Callable[..., Result], jobs: Iterable[Job], lookahead: int) -> Iterator[Result]:
        """Yield `function(*arguments)` for each job, in order, while workers do the next `lookahead` jobs."""
        pending: deque[Callable[[], Result]] = deque()
        for arguments in jobs:
            pending.append(self.submit(function, *arguments))
            if self.processes <= 1 or len(pending) > lookahead:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()


def run_jobs(
    function: Callable[..., Result], jobs: Mapping[Key, Job], processes: int | None, *, preload: Sequence[str] = ()
) -> Iterator[tuple[Key, Result | None, str | None]]:
    """Call a function of a module for each job, in worker processes if there are several (see `WorkerPool`).

    Yields:
        (key, result, None), or (key, None, reason in one line) where the input was at fault, in the order of the jobs.

    Raises:
        UserError: A worker died.
    """
    with WorkerPool(processes, jobs=len(jobs), preload=preload) as pool:
        attempts = [(function, arguments) for arguments in jobs.values()]
        results = pool.imap(attempt, attempts, LOOKAHEAD * pool.processes)
        for key, (result, reason) in zip(jobs, results, strict=True):
            yield key, result, reason


def _result(future: Future[Result]) -> Result:
    with naming_dead_workers():
        return future.result()


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Raise a `UserError` where a worker process died."""
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps out of memory; lower preprocess.processes (1 works without any). A script "
            'that calls pipeline.train needs `if __name__ == "__main__":` around it'
        ) from error


def _context(preload: Sequence[str]) -> multiprocessing.context.BaseContext:
    """Return the multiprocessing context: a fork server with the slow modules preloaded, where the system has one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def attempt(function: Callable[..., Result], arguments: Job) -> tuple[Result | None, str | None]:
    """Call a function; return (result, None), or (None, reason in one line) where the input is at fault."""
    try:
        return function(*arguments), None
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else None  # MONAI wraps what a transform raises
        return None, first_line(cause or error)


def _prepare_worker(prints: bool, log_level: int) -> None:
    """Limit a worker to one thread, for the workers fill the cores; log as the parent does, and end with it."""
    import torch
    from threadpoolctl import threadpool_limits

    if prints:
        log_to_console()
    logging.getLogger("pipeline").setLevel(log_level)
    torch.set_num_threads(1)
    threadpool_limits(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # The workers of a pool hold both ends of its queue, so none of them would notice that the parent was killed.
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the parent process ends, and end this worker with it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
