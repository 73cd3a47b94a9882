"""What unpaired methods share: which slices their discriminators are shown, and the penalty that keeps them smooth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from networks.cpu_kernels import twice_differentiable
from networks.neighbours import middle_slice, with_channels
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, Engine, Losses, MethodOptions
from pipeline.engines.losses import total
from pipeline.engines.state import ImagePool, RandomState, Stateful, StepCounter

REAL_POOL_SEED = 2**31  # added to the seeds of pools of real slices, which draw on their own
POOL_SIZE = 50  # images of a pool, as Zhu et al. 2017 have it


@dataclass(frozen=True, kw_only=True)
class UnpairedOptions(MethodOptions):
    """Options of every unpaired method."""

    discriminator_slices: int | None = None  # real and as many translated, in a discriminator's step; None: a batch
    r1_weight: float = 0.0  # weight γ of the discriminators' R1 penalty; 0: none
    r1_every: int = 16  # number of steps of which one has the penalty, in which it counts as often


class R1Penalty:
    """The mean squared slope of a discriminator at real images (Mescheder et al. 2018, equation 9), in a few steps.

    Each logit of a patch is taken for a discriminator of its own: the penalty is the mean of their squared slopes,
    summed over scales, so it does not depend on the number of patches. Instead of one backward pass a patch, there is
    one of the logits' sum with random signs, whose squared slope has that mean (Hutchinson 1989).
    """

    def __init__(self, every: int, seed: int, device: torch.device):
        self.every, self.random = every, RandomState(seed, device)
        self.steps = StepCounter(torch.device("cpu"))  # which Python reads, unless every step has the penalty

    @property
    def is_due(self) -> bool:
        """Whether the present step has the penalty."""
        return self.every == 1 or int(self.steps.count) % self.every == 0

    def draw_signs(self, *shape: int) -> Tensor:
        """Return numbers that are 1 or -1."""
        return torch.where(self.random.uniform(*shape) < 0.5, -1.0, 1.0)

    def __call__(self, discriminator: nn.Module, real: Tensor, signs: Callable[..., Tensor]) -> Tensor:
        """Return E‖∇D(real)‖², a tensor () that can be differentiated, at real images (N, 1, H, W).

        The discriminator maps images to logits (N, 1, h, w), or to a list of them; `signs` returns signs of that shape
        for the logits' shape (1, h, w) without the batch.
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
        return {"random": self.random.state_dict(), "steps": self.steps.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.random.load_state_dict(state["random"])
        self.steps.load_state_dict(state["steps"])


class UnpairedEngine(Engine):
    """An engine whose discriminators, "D_A" and "D_B", are shown slices of the step and, if asked for, earlier ones.

    With `discriminator_slices` each contrast has a pool of real slices and one of translations. A discriminator's step
    then sees the batch and images drawn from the pools, which cost no pass of a generator.
    """

    options: UnpairedOptions
    draws: ClassVar[bool] = False  # whether the method itself draws random numbers, besides pools and penalty

    def set_up(self) -> None:
        """See `Engine.set_up`: the pools, by name, the penalty, and random numbers."""
        slices, seed = self.options.discriminator_slices, self.options.seed
        size = self.pool_size if slices is None else max(self.pool_size or POOL_SIZE, slices)
        kinds = ("pool",) if slices is None else ("pool", "real_pool")
        self.pools = {
            f"{kind}_{side}": ImagePool(size, (2 * seed + index + offset) % 2**64, self.device)
            for kind, offset in zip(kinds, (0, REAL_POOL_SEED), strict=False)
            for index, side in enumerate("ab")
            if size is not None
        }
        self.r1 = R1Penalty(self.options.r1_every, seed, self.device) if self.options.r1_weight else None
        self.random = RandomState(seed, self.device)

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `Engine.losses`: those of `generator_losses`, if there are any, and of both discriminators."""
        generator_losses, fake_a, fake_b = self.generator_losses(real_a, real_b)
        if generator_losses:
            generator_losses |= self.source_losses("G", fake_b, real_a) | self.source_losses("F", fake_a, real_b)
        discriminator_losses = {
            **self.discriminator_losses("A", middle_slice(real_a), fake_a),
            **self.discriminator_losses("B", middle_slice(real_b), fake_b),
        }
        return {**({GENERATORS: generator_losses} if generator_losses else {}), DISCRIMINATORS: discriminator_losses}

    def generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[Losses, Tensor, Tensor]:
        """Return the generators' weighted terms (none: they do not move), and the translations to a and to b.

        Terms that tie translations to their sources (`source_losses`) are added to these.
        """
        raise NotImplementedError

    @property
    def pool_size(self) -> int | None:
        """Size of the pools of translations that the method has in any case; None: it has none."""
        return None

    @property
    def has_lazy_terms(self) -> bool:
        """See `Engine`: whether only some of the steps have the penalty."""
        return bool(self.options.r1_weight) and self.options.r1_every > 1

    def discriminator_losses(self, side: str, real: Tensor, fake: Tensor) -> Losses:
        """Return the terms of the discriminator of contrast `side`, "A" or "B", from a batch's images."""
        pool = f"pool_{side.lower()}"
        real, fake = self._shown(f"real_{pool}", real), self._shown(pool, fake)
        losses = {f"discriminator_{side}": self.discriminator_loss(f"D_{side}", real, fake)}
        if self.r1 is not None and self.r1.is_due:
            losses[f"r1_{side}"] = self._r1_loss(self.r1, f"D_{side}", real)
        return losses

    def _shown(self, name: str, images: Tensor) -> Tensor:
        """Return this process's images (N, 1, H, W), of the batch and a pool, if there is one."""
        if name not in self.pools:
            return images
        pool, batch, slices = self.pools[name], self.world.all_gather(images), self.options.discriminator_slices
        return self._local_shard(pool.query(batch) if slices is None else pool.sample(batch, slices))

    def _local_shard(self, whole: Tensor) -> Tensor:
        """Return this process's block, or everything if it cannot be divided evenly; the mean is the same."""
        return whole if len(whole) % self.world.size else self.world.local_shard(whole)

    def _r1_loss(self, penalty: R1Penalty, discriminator: str, real: Tensor) -> Tensor:
        """Return γ/2 · E‖∇D(real)‖² for all steps up to the next that has it (Karras et al. 2020, appendix B).

        It is in full precision, for slopes need many digits, and with torch's own convolutions, which can be
        differentiated twice.
        """
        count = self.options.discriminator_slices or self.world.size * len(real)

        def signs(*shape: int) -> Tensor:
            return self._local_shard(penalty.draw_signs(count, *shape))

        weight = self.options.discriminator_scale * self.options.r1_weight / 2 * self.options.r1_every
        with self.full_precision(), twice_differentiable():
            return weight * penalty(self.discriminators[discriminator], real, signs)

    def on_step_end(self, is_finite: Tensor) -> None:
        """See `Engine.on_step_end`: the pools store the new images, and the penalty counts the step."""
        for pool in self.pools.values():
            pool.commit(is_finite)
        if self.r1 is not None:
            self.r1.count_step()

    def extra_state(self) -> dict[str, Stateful]:
        penalty: dict[str, Stateful] = {} if self.r1 is None else {"r1": self.r1}
        return {**self.pools, **penalty, **({"random": self.random} if self.draws else {})}


def batched_forward(network: nn.Module, *batches: Tensor) -> tuple[Tensor, ...]:
    """Return a network's outputs for several batches (N, C, H, W), computed in one pass.

    The outputs are those of separate passes, for norms are per sample. But one pass reads every weight once, and its
    backward pass computes every weight's gradient once: at batch size 1, most of the work of a U-Net's inner levels.
    Beside slices with neighbours (`networks.neighbours`), single slices are repeated.
    """
    channels = max(batch.shape[1] for batch in batches)
    images = [with_channels(batch, channels) for batch in batches]
    return network(torch.cat(images)).split([len(batch) for batch in batches])
