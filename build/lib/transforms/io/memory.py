"""The free memory, so that a volume that does not fit is refused before the kernel ends the process."""

import ctypes
import math
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")  # https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html
PROCESS_CGROUPS = Path("/proc/self/cgroup")
_CGROUP_FILES = {  # of the memory controller, by cgroup version: limit, usage, and the idle cache within the usage
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_memory(wanted: int = 0) -> int:
    """Return the bytes that this process can still allocate on the machine and in its container or Slurm job.

    Where fewer than `wanted` seem to be left, memory that glibc keeps after a volume or network was freed
    (`pipeline.utils.hardware.set_up`) is returned to the system first.
    """
    free = _available_memory()
    if free < wanted and _trim_allocator():
        free = _available_memory()
    return free


def _available_memory() -> int:
    import psutil

    return int(min([psutil.virtual_memory().available, *_cgroup_memory()]))


def _trim_allocator() -> bool:
    """Have glibc return its free pages to the system; False where there is no such allocator.

    Counting them (`mallinfo2`) is no substitute: some were never touched, and holes of sufficient total size may each
    be too small.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # musl has none
    return trim is not None and trim(0) == 1


def _cgroup_memory() -> Iterator[float]:
    """Yield the free memory of each control group of this process; nothing where there are no groups."""
    try:
        lines = [line.split(":", 2) for line in PROCESS_CGROUPS.read_text().splitlines()]  # hierarchy:controllers:path
    except OSError:
        return
    for hierarchy, controllers, path in lines:
        group = Path(path.lstrip("/"))
        groups = (group, *group.parents)
        if hierarchy == "0":
            yield from (_group_memory(CGROUP_ROOT / group, *_CGROUP_FILES[2]) for group in groups)
        elif "memory" in controllers.split(","):
            yield from (_group_memory(CGROUP_ROOT / "memory" / group, *_CGROUP_FILES[1]) for group in groups)


def _group_memory(group: Path, limit: str, usage: str, cache: str) -> float:
    """Return a group's free memory, idle cache included; infinity where there is no limit."""
    try:
        limit_bytes, used_bytes = (int((group / name).read_text()) for name in (limit, usage))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit_bytes - used_bytes + int(statistics[cache]))
    except (OSError, ValueError, KeyError):  # a limit of "max", or no such files, as at the root
        return math.inf
