"""Several processes at work together, as torchrun would start them: forks of this one, so that nothing is imported."""

import os
import socket
import sys
import traceback
from collections.abc import Callable

import torch


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def together(action: Callable[[int], object], folder, size: int = 2) -> list[tuple[int, object]]:
    """Call `action(rank)` in so many processes; return, for each, its exit code and what it returned.

    What is returned is made of tensors and plain values. An integer is the exit code too.
    """
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    place |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    files = [folder / str(rank) for rank in range(size)]
    children = [_fork(action, rank, place, file) for rank, file in enumerate(files)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [(code, torch.load(file) if file.exists() else None) for code, file in zip(codes, files, strict=True)]


def _fork(action: Callable[[int], object], rank: int, environment: dict[str, str], file) -> int:
    file.unlink(missing_ok=True)
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        torch.set_num_threads(1)
        result = action(rank)
        torch.save(result, file)
        code = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
