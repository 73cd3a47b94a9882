"""A recorder of steps on a CPU that does as a CUDA graph: the same operations again, on the same tensors."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ASKING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item")


class Recorder(TorchDispatchMode):
    """Keeps every operation with its tensors; those that would wait for a GPU are an error."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ASKING, f"{name} asks the device for a number"
        given = _aliases((args, kwargs or {}))
        returned = function(*args, **(kwargs or {}))
        self.calls.append((function, given, _aliases(returned)))
        return returned

    @torch.no_grad()
    def replay(self):
        """Do it all again; what an operation made anew goes where it first went."""
        for function, given, returned in self.calls:
            args, kwargs = _aliases(given)
            for first, repeated in zip(tree_leaves(returned), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(first, torch.Tensor) and first.data_ptr() != repeated.data_ptr():
                    first.copy_(repeated)


def _aliases(tensors):
    """The same memory, in tensors whose shape nobody changes in place."""
    return tree_map_only(torch.Tensor, torch.Tensor.detach, tensors)


def record(step, streams):
    """Record a step and make it, so that the first replay has nothing left to do."""
    recorder, done = Recorder(), []
    with recorder:
        losses = step()

    def replay():
        recorder.replay() if done else done.append(True)

    return losses, replay
