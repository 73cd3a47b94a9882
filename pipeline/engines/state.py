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
        self.generator.set_state(state["generator"].cpu())


class Styles:
    """What one contrast's translator may take as its style: one drawn at random, or the mean of those of training.

    Args:
        drawn: (size,), drawn when training began.
        decay: Of the running mean, which follows faster in the first steps: their encoder is soon another one.
    """

    def __init__(self, drawn: torch.Tensor, decay: float = 0.999):
        self.drawn, self.mean, self.count, self.decay = drawn, torch.zeros_like(drawn), 0, decay

    def take_in(self, style: torch.Tensor) -> None:
        """Move the mean towards a style (size,), in float32 whatever the style's precision."""
        self.count += 1
        share = 1.0 if self.count == 1 else 1 - min(self.decay, (1 + self.count) / (10 + self.count))
        self.mean = self.mean.to(style.device).lerp(style.to(self.mean.dtype), share)

    def state_dict(self) -> dict:
        """Return both styles, and how many the mean is of."""
        return {"drawn": self.drawn, "mean": self.mean, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.drawn, self.mean, self.count = state["drawn"].clone(), state["mean"].clone(), state["count"]
