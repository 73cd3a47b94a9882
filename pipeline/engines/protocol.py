"""The interface of every translation method to the training loop."""

from typing import Protocol

from torch import Tensor, nn


class Engine(Protocol):
    """A method's networks, losses and optimisers; it touches neither disk nor tracking.

    Contrasts are called a (first) and b (second) within an engine; the caller knows their names.
    """

    paired: bool  # whether `step` takes both contrasts of the same slices

    def step(self, real_a: Tensor, real_b: Tensor) -> dict[str, Tensor]:
        """Make one step on a batch of each contrast, (N, 1, H, W) in [-1, 1], and return the losses, detached.

        If any loss is not a finite number the step is skipped: no weight, optimiser state, average, pooled image or
        count is changed. Random generators, torch's global one too, do advance, and so do the power iterations of
        discriminators with spectral norms.
        """

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return the losses of the players that move in the next step, by player and name, with their graphs."""

    def set_learning_rate(self, factor: float) -> dict[str, float]:
        """Set every optimiser's rate to `factor` times its configured one, and return the rates by name."""

    def translators(self) -> dict[str, nn.Module]:
        """Return, by target ("a" or "b"), the module (N, 1, H, W) → (N, 1, H, W) for evaluation and translation."""

    def best_generators(self) -> nn.ModuleDict:
        """Return the trained generators as they evaluate and translate: their moving average, if there is one."""

    def networks(self) -> dict[str, nn.Module]:
        """Return every trained network by name."""

    def state_dict(self) -> dict:
        """Return everything a bitwise resume needs, as tensors and plain values."""

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""

    def transferable_components(self) -> dict[str, object]:
        """Return the networks and other components that another run can begin from, by the names of `state_dict`."""

    def load_pretrained(self, state: dict) -> None:
        """Load the transferable components of a `state_dict` of another run with the same networks."""
