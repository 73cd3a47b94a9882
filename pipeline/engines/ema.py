"""The exponential moving average of the generators, which evaluates and translates."""

import copy

import torch
from torch import Tensor, nn

from pipeline.engines.state import UpdateRate


class ExponentialMovingAverage:
    """A copy of some networks whose weights are the running mean of theirs; faster to follow in the first steps.

    Args:
        networks: Those that are followed.
        decay: Of the mean.
        device: Where they are.

    Attributes:
        networks: The copy, in `eval` mode.
        share: How far it moves at a step.
    """

    def __init__(self, networks: nn.ModuleDict, decay: float, device: torch.device):
        self.networks = copy.deepcopy(networks).eval()
        self.update_rate = UpdateRate(decay, device)

    @torch.no_grad()
    def update(self, networks: nn.ModuleDict, is_finite: Tensor | None) -> None:
        """Move the mean towards the networks' present weights, if the step was `is_finite` ().

        None: it was, as the host knows, who then does it in one pass.
        """
        means, weights = list(self.networks.parameters()), list(networks.parameters())
        if is_finite is None:
            torch._foreach_lerp_(means, weights, self.update_rate.next_rate(torch.tensor(True)).item())
            return
        distances = torch._foreach_sub(weights, means)  # three launches on a GPU, however many weights there are
        torch._foreach_mul_(distances, self.update_rate.next_rate(is_finite).to(means[0].dtype))
        torch._foreach_add_(means, distances)
