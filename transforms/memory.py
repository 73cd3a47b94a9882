"""How much memory is free, so that what does not fit is refused and not ended by the kernel with all the rest."""

import math
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")  # https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html
OWN_GROUPS = Path("/proc/self/cgroup")
_FILES = {  # of the memory controller, by the hierarchy's version: the limit, what is used, and of that the idle cache
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_memory() -> int:
    """Return how many bytes this process can still take: of the machine, and of its container or Slurm job."""
    import psutil

    return int(min([psutil.virtual_memory().available, *_left_in_groups()]))


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
