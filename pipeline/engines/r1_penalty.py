"""R1: a penalty on a discriminator's slopes at real images (Mescheder et al. 2018, equation 9)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.engines.losses import total
from pipeline.engines.state import RandomState, StepCounter


class R1Penalty:
    """The mean squared slope of a discriminator at real images, in one of every few steps.

    Each logit of a patch is taken for a discriminator of its own: the penalty is the mean of their squared slopes,
    summed over scales, so it does not depend on the number of patches. Instead of one backward pass a patch, there is
    one of the logits' sum with random signs, whose squared slope has that mean (Hutchinson 1989).

    Args:
        every: Number of steps of which one has the penalty.
        seed: Seed of the signs.
        device: Device of the engine.
    """

    def __init__(self, every: int, seed: int, device: torch.device):
        self.every, self.random = every, RandomState(seed, device)
        self.steps = StepCounter(torch.device("cpu"))  # which Python reads, unless every step has the penalty

    @property
    def generator(self) -> torch.Generator:
        """The random generator of the signs."""
        return self.random.generator

    @property
    def is_due(self) -> bool:
        """Whether the present step has the penalty."""
        return self.every == 1 or int(self.steps.count) % self.every == 0

    def draw_signs(self, *shape: int) -> Tensor:
        """Return numbers that are 1 or -1."""
        return torch.where(self.random.uniform(*shape) < 0.5, -1.0, 1.0)

    def __call__(self, discriminator: nn.Module, real: Tensor, signs: Callable[..., Tensor]) -> Tensor:
        """Return E‖∇D(real)‖², a tensor () that can be differentiated.

        Args:
            discriminator: Maps images to logits (N, 1, h, w), or to a list of them.
            real: (N, 1, H, W).
            signs: Returns signs (N, 1, h, w) for the logits' shape (1, h, w) without the batch.
        """
        real = real.detach().requires_grad_()
        logits = discriminator(real)
        scales = [logits] if isinstance(logits, Tensor) else logits
        projections = [(scale * signs(*scale.shape[1:]).to(scale)).sum() / scale[0].numel() ** 0.5 for scale in scales]
        (slope,) = torch.autograd.grad(total(projections), real, create_graph=True)
        return slope.square().sum() / len(real)

    def count_step(self) -> None:
        """Count a step that was not skipped, which Python knows if steps differ (`Engine.requires_host_sync`)."""
        if self.every > 1:
            self.steps.count += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the random generator and the number of steps."""
        return {"random": self.random.state_dict(), "steps": self.steps.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take over what `state_dict` returned."""
        self.random.load_state_dict(state["random"])
        self.steps.load_state_dict(state["steps"])
