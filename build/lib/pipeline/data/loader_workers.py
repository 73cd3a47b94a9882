"""A loader's worker processes: their signals, their end, and plain messages where they fail."""

import atexit
import errno
import multiprocessing
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from traceback import clear_frames

from torch import Tensor
from torch.utils.data import get_worker_info

from pipeline.utils.errors import UserError

FAILED_WORKERS = {  # pattern of torch's message, searched in this order -> meaning
    "bus error|shared memory|</torch_": "shared memory (/dev/shm) is too small",
    "too many open files|ancdata": "too many open files (ulimit -n)",
    r"worker \(pid.*killed by signal": "a loader's worker was killed, perhaps for want of memory",
    r"worker \(pid.*exited unexpectedly": "a loader's worker died",
}


@contextmanager
def explaining_workers(workers: int) -> Iterator[None]:
    """Turn the failure of a loader's workers into a UserError.

    torch learns of a worker's death by a signal, and raises in whatever code is running: so this context belongs around
    everything that uses the batches.

    Args:
        workers: Number of workers; with 0, errors pass unchanged.

    Raises:
        UserError: a worker died, or shared memory, memory or open files do not suffice for workers.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        # Release the workers that torch's frames hold: while torch knows of a dead one, it raises again whenever any
        # child of this process ends.
        clear_frames(error.__traceback__)
        reason = _worker_failure(error) if workers else None
        if reason is None:
            raise
        raise UserError(
            f"{reason}; training.loader_workers=0 works without workers and without shared memory; the same command "
            "with it goes on from the last checkpoint"
        ) from error


def _worker_failure(error: RuntimeError | OSError) -> str | None:
    """Return what an error means for a loader's workers, or None if it is about something else."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EAGAIN):
        return f"there is no room for a loader's workers ({error.strerror})"
    messages = [str(cause).strip().rpartition("\n")[2] for cause in (error, error.__cause__) if cause is not None]
    meanings = (
        meaning
        for pattern, meaning in FAILED_WORKERS.items()
        if any(re.search(pattern, message, re.IGNORECASE) for message in messages)
    )
    return next(meanings, None)


def collate_shared(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return a batch, moved to shared memory in a worker: a full shared memory raises here, but hangs torch's queue."""
    return batch if get_worker_info() is None else tuple(slices.share_memory_() for slices in batch)


def ignore_stop_signals(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker: the parent finishes its step, saves and ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@cache
def end_workers_at_exit() -> None:
    """End the remaining workers when this interpreter exits.

    Otherwise the exit sends them SIGTERM, which they ignore, and waits for ever. An error's traceback can keep
    workers alive.
    """
    atexit.register(_end_workers)


def _end_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise torch raises at each worker's death
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
