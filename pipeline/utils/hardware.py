"""Device, CPU threads and memory allocator."""

import ctypes
import sys

import torch

from pipeline.utils.distributed import world_from_env
from pipeline.utils.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """Return the device named "auto", "cpu", "cuda" or "mps"; "auto" is the fastest one available.

    Each process that torchrun starts on a machine gets its own CUDA device.

    Raises:
        UserError: The device is not available, or there are fewer devices than processes.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [kind for kind, is_present in present.items() if is_present]
    kind = available[0] if name == "auto" else name
    if kind not in available:
        devices = ", ".join(available)
        raise UserError(f"device {name}: not available on this machine; use one of: auto, {devices}")
    world = world_from_env()
    if world.size == 1 or kind == "cpu":
        return torch.device(kind)
    if kind == "mps":
        world.refuse("device mps: serves one process only; use device=cpu, or start without torchrun")
    device_count = torch.cuda.device_count()
    if device_count < world.local_size:
        world.refuse(
            f"{world.local_size} processes on this machine and {device_count} CUDA devices; start as many as there are "
            "devices (torchrun --nproc_per_node), or set device=cpu"
        )
    torch.cuda.set_device(world.local_rank)
    return torch.device(kind, world.local_rank)


def require_able(device: torch.device, *, precision: str, cuda_graph: bool) -> None:
    """Refuse settings that the device or the number of processes does not support.

    Raises:
        UserError: fp16 or a CUDA graph without CUDA, or a CUDA graph in one of several processes.
    """
    world = world_from_env()
    if precision == "fp16" and device.type != "cuda":
        world.refuse("training.precision = fp16: needs a CUDA device, and there is none; use bf16 or float32")
    if cuda_graph and device.type != "cuda":
        world.refuse("training.cuda_graph = true: needs a CUDA device, and there is none; set it to false")
    if cuda_graph and world.size > 1:
        world.refuse("training.cuda_graph = true: is for one process, and torchrun started several; set it to false")


def tune(device: torch.device, *, tf32: bool) -> None:
    """Let a GPU search its fastest convolution algorithms, since every step has the same shapes; see `set_tf32`."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    set_tf32(device, tf32)


def set_tf32(device: torch.device, tf32: bool) -> None:
    """Set whether a GPU rounds factors of float32 products to TF32's 10 bits; sums keep float32 precision."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


def set_up(threads: int | None) -> None:
    """Set the number of CPU threads (None leaves it) and keep large blocks of memory between steps.

    At each `free`, glibc returns blocks above its mmap threshold to the system; the 33 MB weight gradients of a
    full-size U-Net are then faulted in page by page in every step. Keeping them reduces a CPU step to about 0.7 of the
    time, with identical results. Linux with glibc only; elsewhere nothing is done.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
