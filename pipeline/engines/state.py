"""Small components of an engine whose state belongs to a checkpoint, and what torch leaves to do with its own.

Their values stay on the engine's device, and so does `is_finite` (), which says whether a step counts. So nothing waits
for a GPU, and a captured step (`engines.cuda_graph`) counts each time it is replayed.
"""

import copy
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Stateful(Protocol):
    """Whatever has a state that a checkpoint keeps: networks, optimisers and the components below."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take over what `state_dict` returned."""


class StepCounter:
    """The number of steps that moved weights."""

    def __init__(self, device: torch.device):
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def state_dict(self) -> dict[str, Any]:
        return {"made": int(self.count)}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.count.fill_(state["made"])


class RandomState:
    """A random generator of the engine: on its device if that is CUDA, on the CPU otherwise."""

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

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "place": self.device_kind}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take over what `state_dict` returned; from another kind of device, seed with its checksum."""
        generator_state = state["generator"].cpu()
        if state.get("place", "cpu") == self.device_kind:
            self.generator.set_state(generator_state)
        else:
            self.generator.manual_seed(zlib.crc32(generator_state.numpy().tobytes()))


class UpdateRate:
    """The rate at which a running mean moves towards the latest value; it falls to `1 - decay`.

    After n values the decay is at most (1 + n) / (10 + n).
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
    """The styles (size,) that one contrast's translator can use: a random one, or the running mean of training styles.

    The mean moves faster in the first steps, while the encoder changes fast.
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

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.random_style, "mean": self.mean, "count": int(self.update_rate.count)}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.random_style = state["drawn"].to(self.random_style, copy=True)
        self.mean.copy_(state["mean"])
        self.update_rate.count.fill_(state["count"])


class ExponentialMovingAverage:
    """A copy of networks whose weights are a running mean of the originals' weights, with warm-up.

    (`torch.optim.swa_utils.AveragedModel` has the host read its count, which also counts skipped steps.) `networks` is
    the copy, in `eval` mode.
    """

    def __init__(self, networks: nn.ModuleDict, decay: float, device: torch.device):
        self.networks = copy.deepcopy(networks).eval()
        self.update_rate = UpdateRate(decay, device)

    @torch.no_grad()
    def update(self, networks: nn.ModuleDict, is_finite: Tensor | None) -> None:
        """Move the mean towards the networks' present weights, if the step was finite.

        `is_finite` is a tensor (); None: the step is known to have been finite, and one pass suffices.
        """
        averages: list[Tensor] = list(self.networks.parameters())
        weights: list[Tensor] = list(networks.parameters())
        if is_finite is None:
            torch._foreach_lerp_(averages, weights, self.update_rate.next_rate(torch.tensor(True)).item())
            return
        distances = torch._foreach_sub(weights, averages)  # three kernel launches on a GPU for any number of weights
        torch._foreach_mul_(distances, self.update_rate.next_rate(is_finite).to(averages[0].dtype))
        torch._foreach_add_(averages, distances)


class ImagePool:
    """A pool of earlier translations that a discriminator is shown again (Shrivastava et al. 2017, section 2.3).

    For each new image it returns, with probability one half each, that image or a stored one, which the new one then
    replaces. All work is arithmetic on tensors of the engine's device, without host synchronisation. The pool has its
    own random generator, which is saved and restored with it. A `size` of 0 returns every batch unchanged.
    """

    def __init__(self, size: int, seed: int, device: torch.device):
        self.size, self.device = size, device
        self.random = RandomState(seed, device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)  # number of stored images
        self._slots: Tensor | None = None  # (size + 1, 1, H, W): the last slot takes discarded images
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None  # images, their slots, number of slots they fill

    @property
    def images(self) -> Tensor | None:
        """The stored images (count, 1, H, W), or None; reading them waits for a GPU."""
        count = int(self._count)
        return self._slots[:count] if count and self._slots is not None else None

    def query(self, batch: Tensor) -> Tensor:
        """Return a batch (N, 1, H, W) mixed from `batch` and the pool, detached; `commit` then changes the pool."""
        batch = batch.detach()
        if self.size == 0:
            return batch
        if self._slots is None:
            self._slots = torch.zeros(self.size + 1, *batch.shape[1:], dtype=batch.dtype, device=batch.device)
        count, device = len(batch), batch.device
        coins, drawn_slots = (
            draw.to(device) for draw in (self.random.uniform(count), self.random.integers(self.size, count))
        )
        free_slots = self._count + torch.arange(count, device=device) if count > 1 else self._count[None]
        is_filling = free_slots < self.size  # while the pool is not full, each image takes a free slot
        is_exchanged = (coins < 0.5) & ~is_filling
        slots = torch.where(is_filling, free_slots, torch.where(is_exchanged, drawn_slots, self.size))
        pool_images = self._slots[drawn_slots].to(batch)
        if count > 1:
            pool_images, slots = _resolve_order(batch, slots, drawn_slots, pool_images, self.size)
        self._pending = batch, slots, is_filling.sum() if count > 1 else is_filling[0]
        return _select(is_exchanged, pool_images, batch)

    def sample(self, batch: Tensor, count: int) -> Tensor:
        """Return `count` images: `batch` (N, 1, H, W) and stored ones, detached; `commit` then changes the pool.

        Stored images are drawn at random, different ones while there are enough. Where none is, the batch is repeated,
        so that the shape is always the same.
        """
        self.query(batch)  # to choose the new images' slots
        batch, device = batch.detach(), batch.device
        if self._slots is None or count == len(batch):
            return batch
        is_stored = torch.arange(self.size, device=device) < self._count
        order = torch.where(is_stored, self.random.uniform(self.size).to(device), 2.0).argsort()  # stored ones first
        position = torch.arange(count - len(batch), device=device)
        stored_images = self._slots[order[position % self._count.clamp(min=1)]].to(batch)
        return torch.cat([batch, torch.where(self._count > 0, stored_images, batch[position % len(batch)])])

    def commit(self, is_finite: Tensor) -> None:
        """Store the new images of the last `query` or `sample`, unless its step was skipped (`is_finite` () is false).

        Images that are not stored go to the last slot, which is never read.
        """
        if self._pending is not None and self._slots is not None:
            batch, slots, new_count = self._pending
            self._slots.index_copy_(0, torch.where(is_finite, slots, self.size), batch.to(self._slots))
            self._count += new_count * is_finite
            self._pending = None

    def state_dict(self) -> dict[str, Any]:
        images = self.images
        return {"images": None if images is None else images.clone(), "random": self.random.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take over what `state_dict` returned; "random" may be the bare state of a CPU generator."""
        images, random = state["images"], state["random"]
        self._slots, self._pending = None, None
        self._count.fill_(0 if images is None else len(images))
        if images is not None:
            self._slots = torch.zeros(self.size + 1, *images.shape[1:], dtype=images.dtype, device=self.device)
            self._slots[: len(images)] = images
        self.random.load_state_dict({"generator": random} if isinstance(random, Tensor) else random)


def _resolve_order(
    batch: Tensor, slots: Tensor, drawn_slots: Tensor, pool_images: Tensor, discard_slot: int
) -> tuple[Tensor, Tensor]:
    """Resolve a batch as if its images came to the pool one after the other.

    New images (N, 1, H, W) go into `slots` (N,), and would be exchanged with the images in `drawn_slots`, which are
    `pool_images` before this batch. Returned are those at each image's turn, which may be earlier ones of the batch,
    and `slots` with all but the last image of each slot discarded.
    """
    order = torch.arange(len(batch), device=batch.device)
    predecessor = torch.where((slots == drawn_slots[:, None]) & (order < order[:, None]), order, -1).amax(dim=1)
    is_overwritten = ((slots == slots[:, None]) & (order > order[:, None])).any(dim=1)
    exchanged_images = _select(predecessor >= 0, batch[predecessor.clamp(min=0)], pool_images)
    return exchanged_images, torch.where(is_overwritten, discard_slot, slots)


def _select(mask: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """Return `images` (N, 1, H, W) where `mask` (N,) is true, and `others` elsewhere."""
    return torch.where(mask[:, None, None, None], images, others)


def restore_options(optimiser: torch.optim.Optimizer) -> None:
    """Restore an optimiser's "fused" and "capturable": a loaded state brings those of the run that saved it."""
    for group in optimiser.param_groups:
        group |= {name: optimiser.defaults[name] for name in ("fused", "capturable") if name in optimiser.defaults}
        for weight in group["params"]:
            state = optimiser.state.get(weight, {})
            if group.get("fused") and "step" in state:
                state["step"] = state["step"].to(weight.device)


def update_scaler(scaler: torch.amp.GradScaler, is_finite: Tensor) -> None:
    """Update the loss scaler from a step's overflows, unless the losses themselves were not finite."""
    if not scaler.is_enabled():
        return
    scaler_state = [tensor for tensor in (scaler._scale, scaler._growth_tracker) if tensor is not None]
    previous_state = [tensor.clone() for tensor in scaler_state]
    scaler.update()
    for tensor, previous in zip(scaler_state, previous_state, strict=True):
        tensor.copy_(torch.where(is_finite, tensor, previous))
