"""A training step as one CUDA graph: recorded once, then replayed with a single launch.

What Python does in a step is done when the step is recorded and never again, so everything that differs between steps
must lie in tensors of the device: images, learning rates, what is drawn, whether a step is sound. Engines that
`disable_host_sync` keep to that; on a CPU, `tests/pipeline/engines/test_cuda_graph.py` replays their every operation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.engines.base import AdversarialEngine, Losses
from pipeline.utils.errors import UserError, first_cause

WARM_UP = 3  # steps before one is recorded: libraries choose algorithms and take their memory in them
Step = Callable[[], Losses]


@dataclass(frozen=True)
class Recording:
    """A step that was recorded.

    Attributes:
        images: The tensors from which it takes the images of both contrasts.
        losses: The tensors in which it leaves the losses.
        replay: Makes the step.
    """

    images: tuple[Tensor, Tensor]
    losses: Losses
    replay: Callable[[], None]


class CapturedStep:
    """Makes an engine's steps: the first few of each shape of batch as they are, the others from a recording.

    Args:
        engine: One that does not ask the host; made by one process alone.
        record: Takes a step, and the engine's random generators; returns the losses and what replays the step.
            Recording must not change the engine.

    Raises:
        ValueError: the engine must ask.
    """

    def __init__(
        self,
        engine: AdversarialEngine,
        record: "Callable[[Step, list[torch.Generator]], tuple[Losses, Callable[[], None]]] | None" = None,
    ):
        if engine.host_sync:
            engine.disable_host_sync()
        self.engine, self._record = engine, record or _on_cuda
        self._stream: torch.cuda.Stream | None = None
        self._made: dict[tuple, int] = {}
        self._recordings: dict[tuple, Recording] = {}

    def __call__(self, real_a: Tensor, real_b: Tensor) -> Losses:
        """See `Engine.step`; the losses are overwritten by the next step."""
        shapes = real_a.shape, real_b.shape
        self._made[shapes] = self._made.get(shapes, 0) + 1
        if self._made[shapes] <= WARM_UP:
            return self._beside(lambda: self.engine.step(real_a, real_b), real_a.device)
        if shapes not in self._recordings:
            self._recordings[shapes] = self._recorded(real_a.clone(), real_b.clone())
        recording = self._recordings[shapes]
        for place, real in zip(recording.images, (real_a, real_b), strict=True):
            place.copy_(real, non_blocking=True)
        recording.replay()
        return recording.losses

    def _beside(self, step: Step, device: torch.device) -> Losses:
        """Make a step on another CUDA stream than the usual one, as torch asks of steps that are to be recorded."""
        if device.type != "cuda":
            return step()
        here, self._stream = torch.cuda.current_stream(device), self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            losses = step()
        here.wait_stream(self._stream)
        return losses

    def _recorded(self, real_a: Tensor, real_b: Tensor) -> Recording:
        groups = [group for optimiser in self.engine.optimisers.values() for group in optimiser.param_groups]
        for group in groups:  # torch refuses to record an optimiser without this, and warns of any other use of it
            group["capturable"] = True
        for optimiser in self.engine.optimisers.values():  # or the warm-up's gradients stay beside the recording's own
            optimiser.zero_grad(set_to_none=True)
        try:
            losses, replay = self._record(lambda: self.engine.step(real_a, real_b), self.engine.streams())
        finally:
            for group in groups:
                group["capturable"] = False
        return Recording((real_a, real_b), losses, replay)


def _on_cuda(step: Step, streams: list[torch.Generator]) -> tuple[Losses, Callable[[], None]]:
    """Record a step as a CUDA graph, which executes nothing."""
    graph = torch.cuda.CUDAGraph()
    if torch.__version__ < (2, 14):  # later ones find out by themselves what is drawn from
        for generator in streams:  # so that each replay draws what comes next; torch's own generator is known to it
            graph.register_generator_state(generator)
    reason: Exception | None = None
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            try:
                losses = step()
            except Exception as error:  # the end of the recording, which fails too, would hide it
                reason = error
                raise
    except RuntimeError as error:
        said = first_cause(reason or error)
        raise UserError(f"training.cuda_graph = true: the step cannot be recorded ({said}); set it to false") from error
    return losses, graph.replay
