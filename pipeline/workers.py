"""Worker processes that do not outlive the process they work for."""

import multiprocessing
import os
from threading import Thread


def end_with_parent() -> None:
    """Have this worker end when the process that started it does, even when that one was killed.

    The workers of a pool hold both ends of its queue, so none of them would notice and all would wait for ever.
    """
    Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
