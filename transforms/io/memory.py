"""How much memory is free, so that what does not fit is refused and not ended by the kernel with all the rest."""

import ctypes
import math
import sys
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")  # https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html
OWN_GROUPS = Path("/proc/self/cgroup")
_FILES = {  # of the memory controller, by the hierarchy's version: the limit, what is used, and of that the idle cache
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_memory(wanted: int = 0) -> int:
    """Return how many bytes this process can still take: of the machine, and of its container or Slurm job.

    Where fewer than `wanted` seem to be left, what the allocator keeps for itself is given back first: what a volume
    or a network took and freed is the process's to take again (glibc keeps it: `pipeline.utils.hardware.set_up`).
    """
    free = _measured()
    if free < wanted and _give_back():
        free = _measured()
    return free


def _measured() -> int:
    import psutil

    return int(min([psutil.virtual_memory().available, *_left_in_groups()]))


def _give_back() -> bool:
    """Have glibc return to the system the pages that it holds free; False where there is no such allocator.

    Not counted (`mallinfo2`) but given back and measured again: of what is counted, some was never touched, and holes
    that are together large enough may each be too small.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # musl has none
    return trim is not None and trim(0) == 1


def _left_in_groups() -> Iterator[float]:
    """Yield what the control groups that this process lies in leave it; nothing where there are none, or no limits."""
    try:
        lines = [line.split(":", 2) for line in OWN_GROUPS.read_text().splitlines()]  # hierarchy:controllers:path
    except OSError:
        return
    for hierarchy, controllers, path in lines:
        own = Path(path.lstrip("/"))
        if hierarchy == "0":
            yield from (_left(GROUPS / group, *_FILES[2]) for group in (own, *own.parents))
        elif "memory" in controllers.split(","):
            yield from (_left(GROUPS / "memory" / group, *_FILES[1]) for group in (own, *own.parents))


def _left(group: Path, limit: str, usage: str, cache: str) -> float:
    """Return how much a group leaves, idle cache counted as free; infinity where there is no limit."""
    try:
        most, used = (int((group / name).read_text()) for name in (limit, usage))
        counted = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(counted[cache]))
    except (OSError, ValueError, KeyError):  # "max", or none of these files, as at the root
        return math.inf
