"""Small components of an engine whose state belongs to a checkpoint.

Their values stay on the engine's device, and so does `is_finite` (), which says whether a step counts. So nothing waits
for a GPU, and a captured step (`engines.cuda_graph`) counts each time it is replayed.
"""

import zlib

import torch
from torch import Tensor


class StepCounter:
    """The number of steps that moved weights."""

    def __init__(self, device: torch.device):
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def state_dict(self) -> dict:
        """Return the count."""
        return {"made": int(self.count)}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.count.fill_(state["made"])


class RandomState:
    """A random generator of the engine: on its device if that is CUDA, on the CPU otherwise.

    Args:
        seed: Seed of the generator.
        device: Device of the engine.
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
        """Return the generator's state and the kind of its device."""
        return {"generator": self.generator.get_state(), "place": self.device_kind}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned; from another kind of device, seed with its checksum."""
        generator_state = state["generator"].cpu()
        if state.get("place", "cpu") == self.device_kind:
            self.generator.set_state(generator_state)
        else:
            self.generator.manual_seed(zlib.crc32(generator_state.numpy().tobytes()))


class UpdateRate:
    """The rate at which a running mean moves towards the latest value; it falls to `1 - decay`.

    Args:
        decay: Decay of the mean; after n values it is at most (1 + n) / (10 + n).
        device: Device of the count.
    """

    def __init__(self, decay: float, device: torch.device):
        self.decay = decay
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def next_rate(self, is_finite: Tensor) -> Tensor:
        """Count a value and return its rate () in float32; 0, and not counted, unless `is_finite`."""
        self.count += is_finite.to(self.count.device)
        count = self.count.float()
        return (1 - ((1 + count) / (10 + count)).clamp(max=self.decay)) * is_finite.to(count.device)


class Styles:
    """The styles that one contrast's translator can use: a random one, or the running mean of the training styles.

    Args:
        random_style: (size,), drawn when training begins.
        device: Device of the mean.
        decay: Decay of the running mean, which moves faster in the first steps, while the encoder changes fast.
    """

    def __init__(self, random_style: Tensor, device: torch.device, decay: float = 0.999):
        self.random_style, self.mean = random_style, torch.zeros_like(random_style, device=device)
        self.update_rate = UpdateRate(decay, device)

    def update(self, style: Tensor, is_finite: Tensor) -> None:
        """Move the mean towards a style (size,), in float32, if the step was finite."""
        rate = self.update_rate.next_rate(is_finite)
        is_first = (self.update_rate.count == 1) & is_finite  # the first style replaces the zeros
        mean = self.mean.lerp(style.to(self.mean), torch.where(is_first, 1.0, rate).to(self.mean))
        self.mean.copy_(torch.where(is_finite, mean, self.mean))  # NaN in the style leaves it unchanged

    def state_dict(self) -> dict:
        """Return both styles, and the number of styles in the mean."""
        return {"drawn": self.random_style, "mean": self.mean, "count": int(self.update_rate.count)}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.random_style = state["drawn"].to(self.random_style, copy=True)
        self.mean.copy_(state["mean"])
        self.update_rate.count.fill_(state["count"])
