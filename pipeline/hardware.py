"""The machine: device, threads and the allocator."""

import ctypes
import sys

import torch

from pipeline.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """Return the device called "auto", "cpu", "cuda" or "mps"; "auto" takes the fastest there is.

    Raises:
        UserError: that device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in there.items() if present))
    if not there[name]:
        present = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise UserError(f"device {name}: not available on this machine; use one of: auto, {present}")
    return torch.device(name)


def set_up(threads: int | None) -> None:
    """Set the number of CPU threads (None leaves it) and keep large blocks of memory between steps.

    glibc gives blocks above its mmap ceiling back to the system at each `free`; the 33 MB weight gradients of a
    full-size U-Net are then faulted in page by page in every step. Told once to keep them, a CPU step takes about
    0.7 of the time, with identical results. Linux with glibc only; elsewhere nothing is done.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
