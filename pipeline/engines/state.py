"""Small parts of an engine that a resume must find as they were."""

import torch


class StepCount:
    """How many steps moved weights."""

    def __init__(self):
        self.made = 0

    def state_dict(self) -> dict:
        """Return the count."""
        return {"made": self.made}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.made = state["made"]


class RandomState:
    """A random generator of the engine's own, on the CPU whatever the device, so that draws are the same everywhere."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return numbers in [0, 1), on the CPU."""
        return torch.rand(*shape, generator=self.generator, device="cpu")

    def normal(self, *shape: int) -> torch.Tensor:
        """Return numbers from N(0, 1), on the CPU."""
        return torch.randn(*shape, generator=self.generator, device="cpu")

    def choice(self, population: int, count: int) -> torch.Tensor:
        """Return `count` different indices below `population`, on the CPU."""
        return torch.randperm(population, generator=self.generator, device="cpu")[:count]

    def state_dict(self) -> dict:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.generator.set_state(state["generator"])


class MeanStyle:
    """The mean of the styles that training encodes, the recent ones weighing more as the encoder moves.

    Args:
        size: Of a style.
        decay: Of the running mean; in the first steps it is the plain mean.
    """

    def __init__(self, size: int, decay: float = 0.999):
        self.mean, self.count, self.decay = torch.zeros(size), 0, decay

    def take_in(self, style: torch.Tensor) -> None:
        """Move the mean towards a style (size,)."""
        self.count += 1
        self.mean = self.mean.to(style).lerp(style, max(1 - self.decay, 1 / self.count))

    def state_dict(self) -> dict:
        """Return the mean and how many styles it is of."""
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.mean, self.count = state["mean"].clone(), state["count"]
