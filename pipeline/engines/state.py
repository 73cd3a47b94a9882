"""Small parts of an engine that a resume must find as they were.

What they hold and count stays on the engine's device, and whether a step is to count is told by a tensor there,
`is_finite` (): so a GPU need never be waited for, and a captured step (`engines.cuda_graph`) counts each time it is
replayed.
"""

import zlib

import torch
from torch import Tensor


class StepCounter:
    """How many steps moved weights."""

    def __init__(self, device: torch.device):
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def state_dict(self) -> dict:
        """Return the count."""
        return {"made": int(self.count)}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.count.fill_(state["made"])


class RandomState:
    """A random generator of the engine's own: on a CUDA device it draws there, for every other one on the CPU.

    Args:
        seed: Of the generator.
        device: The engine's.
    """

    def __init__(self, seed: int, device: torch.device):
        self.device_kind = "cuda" if device.type == "cuda" else "cpu"
        self.generator = torch.Generator(device if self.device_kind == "cuda" else "cpu").manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1)."""
        return torch.rand(*shape, generator=self.generator, device=self.generator.device)

    def integers(self, limit: int, count: int) -> Tensor:
        """Return `count` whole numbers from 0 to `limit` - 1."""
        return torch.randint(limit, (count,), generator=self.generator, device=self.generator.device)

    def normal(self, *shape: int) -> Tensor:
        """Return numbers from N(0, 1)."""
        return torch.randn(*shape, generator=self.generator, device=self.generator.device)

    def choice(self, population: int, count: int) -> Tensor:
        """Return `count` different indices below `population`, or all where there are fewer, in random order."""
        return torch.randperm(population, generator=self.generator, device=self.generator.device)[:count]

    def state_dict(self) -> dict:
        """Return the generator's state, and on what kind of device it draws."""
        return {"generator": self.generator.get_state(), "place": self.device_kind}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned; after another kind of device, begin a stream that follows from it."""
        numbers = state["generator"].cpu()
        if state.get("place", "cpu") == self.device_kind:
            self.generator.set_state(numbers)
        else:
            self.generator.manual_seed(zlib.crc32(numbers.numpy().tobytes()))


class UpdateRate:
    """How far a running mean moves towards the latest value: less and less, until the share is `1 - decay`.

    Args:
        decay: Of the mean, once it is warm: after n values it is no more than (1 + n) / (10 + n).
        device: Where the values are counted.
    """

    def __init__(self, decay: float, device: torch.device):
        self.decay = decay
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def next_rate(self, is_finite: Tensor) -> Tensor:
        """Count a value; return the share () in float32 by which it moves the mean: none unless it is `is_finite`."""
        self.count += is_finite.to(self.count.device)
        counted = self.count.float()
        return (1 - ((1 + counted) / (10 + counted)).clamp(max=self.decay)) * is_finite.to(counted.device)


class Styles:
    """What one contrast's translator may take as its style: one drawn at random, or the mean of those of training.

    Args:
        drawn: (size,), drawn when training began.
        device: Where the mean is kept.
        decay: Of the running mean, which follows faster in the first steps: their encoder is soon another one.
    """

    def __init__(self, drawn: Tensor, device: torch.device, decay: float = 0.999):
        self.random_style, self.mean = drawn, torch.zeros_like(drawn, device=device)
        self.update_rate = UpdateRate(decay, device)

    def update(self, style: Tensor, is_finite: Tensor) -> None:
        """Move the mean towards a style (size,), in float32 whatever the style's precision, if the step was sound."""
        share = self.update_rate.next_rate(is_finite)
        first = (self.update_rate.count == 1) & is_finite  # which replaces the zeros
        moved = self.mean.lerp(style.to(self.mean), torch.where(first, 1.0, share).to(self.mean))
        self.mean.copy_(torch.where(is_finite, moved, self.mean))  # not even what is no number spoils it

    def state_dict(self) -> dict:
        """Return both styles, and how many the mean is of."""
        return {"drawn": self.random_style, "mean": self.mean, "count": int(self.update_rate.count)}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.random_style = state["drawn"].to(self.random_style, copy=True)
        self.mean.copy_(state["mean"])
        self.update_rate.count.fill_(state["count"])
