"""A training step as one CUDA graph: recorded once, then replayed with a single launch.

What Python does in a step is done when the step is recorded and never again. So everything that differs between steps
must lie in tensors of the device: images, learning rates, random numbers, whether the losses are finite. Engines whose
`disable_host_sync` was called keep to that; `tests/pipeline/engines/test_cuda_graph.py` replays all of their operations
on a CPU.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.engines.base import Engine, Losses
from pipeline.utils.errors import UserError, first_cause

WARM_UP = 3  # steps before recording, in which libraries choose algorithms and allocate memory
Step = Callable[[], Losses]


class Recording(NamedTuple):
    """A recorded step: input tensors for the batches of images, output tensors, and what replays it."""

    images: tuple[Tensor, ...]
    losses: Losses
    replay: Callable[[], None]


class CapturedStep:
    """Makes an engine's steps: the first few of each batch shape directly, the others by replaying a recording.

    The engine is in a single process and does without host synchronisation; ValueError: it requires it. `record` is a
    function of a step and the engine's random generators that returns the losses and a function that replays the step;
    recording must not change the engine.
    """

    def __init__(
        self,
        engine: Engine,
        record: "Callable[[Step, list[torch.Generator]], tuple[Losses, Callable[[], None]]] | None" = None,
    ):
        if engine.host_sync:
            engine.disable_host_sync()
        self.engine, self._record = engine, record or _record_cuda_graph
        self._stream: torch.cuda.Stream | None = None
        self._step_counts: dict[tuple, int] = {}
        self._recordings: dict[tuple, Recording] = {}

    def __call__(self, *images: Tensor) -> Losses:
        """See `Engine.step`; the losses are overwritten by the next step."""
        shapes = tuple(image.shape for image in images)
        self._step_counts[shapes] = self._step_counts.get(shapes, 0) + 1
        if self._step_counts[shapes] <= WARM_UP:
            return self._on_side_stream(lambda: self.engine.step(*images), images[0].device)
        if shapes not in self._recordings:
            self._recordings[shapes] = self._record_step(*(image.clone() for image in images))
        recording = self._recordings[shapes]
        for buffer, image in zip(recording.images, images, strict=True):
            buffer.copy_(image, non_blocking=True)
        recording.replay()
        return recording.losses

    def _on_side_stream(self, step: Step, device: torch.device) -> Losses:
        """Make a step on a side stream, as torch requires of steps before a recording."""
        if device.type != "cuda":
            return step()
        current_stream, self._stream = torch.cuda.current_stream(device), self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(current_stream)
        with torch.cuda.stream(self._stream):
            losses = step()
        current_stream.wait_stream(self._stream)
        return losses

    def _record_step(self, *images: Tensor) -> Recording:
        groups = [group for optimiser in self.engine.optimisers.values() for group in optimiser.param_groups]
        for group in groups:  # torch records no optimiser without this, and warns of any other use
            group["capturable"] = True
        for optimiser in self.engine.optimisers.values():  # else the warm-up's gradients would stay in memory too
            optimiser.zero_grad(set_to_none=True)
        try:
            losses, replay = self._record(lambda: self.engine.step(*images), self.engine.random_generators())
        finally:
            for group in groups:
                group["capturable"] = False
        return Recording(images, losses, replay)


def _record_cuda_graph(step: Step, generators: list[torch.Generator]) -> tuple[Losses, Callable[[], None]]:
    """Record a step as a CUDA graph, which executes nothing."""
    graph = torch.cuda.CUDAGraph()
    if torch.__version__ < "2.14":  # later versions register generators by themselves
        for generator in generators:  # so that every replay draws new numbers; the default generator is registered
            graph.register_generator_state(generator)
    reason: Exception | None = None
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            try:
                losses = step()
            except Exception as error:  # leaving the recording fails too, which would hide this error
                reason = error
                raise
    except RuntimeError as error:
        cause = first_cause(reason or error)
        raise UserError(
            f"training.cuda_graph = true: the step cannot be recorded ({cause}); set it to false"
        ) from error
    return losses, graph.replay
