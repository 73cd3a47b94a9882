"""A loader's workers: what they leave to their parent, how they end with it, and what their deaths mean."""

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

FAILED_WORKERS = {  # what torch says, in the order in which it is looked for -> what that means
    "bus error|shared memory|</torch_": "shared memory (/dev/shm) is too small",
    "too many open files|ancdata": "too many open files (ulimit -n)",
    r"worker \(pid.*killed by signal": "a loader's worker was killed, perhaps for want of memory",
    r"worker \(pid.*exited unexpectedly": "a loader's worker died",
}


@contextmanager
def explaining_workers(workers: int) -> Iterator[None]:
    """Turn what becomes of a loader whose workers die, or cannot pass on what they made, into a UserError.

    torch learns of a death by a signal, and raises wherever it meets the code: around whatever uses the batches.

    Args:
        workers: How many there are; without any, nothing is explained.

    Raises:
        UserError: a worker died, or shared memory, memory or open files do not suffice for workers.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        # What torch's frames hold of the workers goes now: as long as one that died is known to torch, it raises again
        # whenever any child of this process ends.
        clear_frames(error.__traceback__)
        reason = _failure(error) if workers else None
        if reason is None:
            raise
        raise UserError(
            f"{reason}; training.loader_workers=0 works without workers and without shared memory; the same command "
            "with it goes on from the last checkpoint"
        ) from error


def _failure(error: RuntimeError | OSError) -> str | None:
    """Return what an error says of a loader's workers; None if it is about something else."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EAGAIN):
        return f"there is no room for a loader's workers ({error.strerror})"
    said = [str(one).strip().rpartition("\n")[2] for one in (error, error.__cause__) if one is not None]
    found = (
        meaning
        for words, meaning in FAILED_WORKERS.items()
        if any(re.search(words, one, re.IGNORECASE) for one in said)
    )
    return next(found, None)


def as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return a batch; in a worker, in shared memory: where it does not fit, the queue's own thread would only hang."""
    return batch if get_worker_info() is None else tuple(side.share_memory_() for side in batch)


def leave_signals_to_the_parent(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker: the parent finishes its step, saves and ends them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@cache
def end_workers_at_exit() -> None:
    """Have this interpreter end the workers that it still has when it exits.

    An exit sends them SIGTERM, which they ignore, and waits for ever; an error's traceback is enough to keep some.
    """
    atexit.register(_end_workers)


def _end_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise at the death of each
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
