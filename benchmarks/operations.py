"""Counts the operations of a training step."""

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import Work
from networks.cpu_kernels import twice_differentiable

ALLOCATES_ALONE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class _Counter(TorchDispatchMode):
    """Counts operations below autograd, without views and allocations."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if not function.is_view and name not in (*ALLOCATES_ALONE, "detach", "_unsafe_view", "_reshape_alias"):
            self.count += 1
        return function(*args, **(kwargs or {}))


def count_operations(work: Work, warm_up: int = 2) -> int:
    """Return the number of a call's operations that launch a kernel on a GPU, after some warm-up calls."""
    with twice_differentiable():
        for _ in range(warm_up):
            work()
        with _Counter() as counter:
            work()
    return counter.count
