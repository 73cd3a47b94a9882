"""The exponential moving average of the generators, used for evaluation and translation."""

import copy

import torch
from torch import Tensor, nn

from pipeline.engines.state import UpdateRate


class ExponentialMovingAverage:
    """A copy of networks whose weights are a running mean of the originals' weights, with warm-up.

    Args:
        networks: The networks to average.
        decay: Decay of the mean per step.
        device: Device of the networks.

    Attributes:
        networks: The copy, in `eval` mode.
        update_rate: Rate at which the mean moves.
    """

    def __init__(self, networks: nn.ModuleDict, decay: float, device: torch.device):
        self.networks = copy.deepcopy(networks).eval()
        self.update_rate = UpdateRate(decay, device)

    @torch.no_grad()
    def update(self, networks: nn.ModuleDict, is_finite: Tensor | None) -> None:
        """Move the mean towards the networks' present weights, if the step was finite.

        Args:
            networks: The networks that are averaged.
            is_finite: Tensor (); None: the step is known to have been finite, and one pass suffices.
        """
        averages, weights = list(self.networks.parameters()), list(networks.parameters())
        if is_finite is None:
            torch._foreach_lerp_(averages, weights, self.update_rate.next_rate(torch.tensor(True)).item())
            return
        distances = torch._foreach_sub(weights, averages)  # three kernel launches on a GPU for any number of weights
        torch._foreach_mul_(distances, self.update_rate.next_rate(is_finite).to(averages[0].dtype))
        torch._foreach_add_(averages, distances)
