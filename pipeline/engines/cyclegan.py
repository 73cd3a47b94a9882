"""CycleGAN: unpaired translation with cycle-consistent adversarial networks (Zhu et al. 2017)."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain

import torch
from torch import Tensor, nn

from pipeline.engines.pool import ImagePool
from pipeline.losses import ADVERSARIAL, all_finite, mean_absolute


class CycleGanEngine:
    """Two generators, two discriminators and the step of section 3.

    G translates a to b, F translates b to a; D_A judges images of contrast a, D_B of contrast b. The losses of the
    generators and of the discriminators are all computed, on the same translations, before any weight moves, so where
    one is not finite nothing moves (under fp16, gradients that overflow make the loss scaler leave out single updates).

    Args:
        build_generator: Makes a fresh generator (N, 1, H, W) → (N, 1, H, W).
        build_discriminator: Makes a fresh discriminator (N, 1, H, W) → logits.
        device: Where to compute.
        adversarial: "bce" (from logits) or "least_squares".
        cycle_weight: λ of equation 3.
        identity_share: Weight of the identity loss (section 5.2) as a share of λ; 0 leaves its passes out.
        discriminator_scale: Factor on the discriminators' loss.
        pool_size: Translations kept for the discriminators, 0 for none.
        ema_decay: Of the running average of the generators that evaluates and translates; 0 for none.
        learning_rate: Adam's, for the generators.
        discriminator_learning_rate: Adam's, for the discriminators.
        beta1: Adam's first momentum.
        precision: "float32", "bf16" or "fp16" (CUDA only, with loss scaling): the arithmetic of the passes.
        seed: Of the image pools.
    """

    def __init__(
        self,
        build_generator: Callable[[], nn.Module],
        build_discriminator: Callable[[], nn.Module],
        *,
        device: torch.device,
        adversarial: str,
        cycle_weight: float,
        identity_share: float,
        discriminator_scale: float,
        pool_size: int,
        ema_decay: float,
        learning_rate: float,
        discriminator_learning_rate: float,
        beta1: float,
        precision: str,
        seed: int,
    ):
        self.G, self.F = build_generator().to(device), build_generator().to(device)
        self.D_A, self.D_B = build_discriminator().to(device), build_discriminator().to(device)
        self.averaged = copy.deepcopy(nn.ModuleList([self.G, self.F])).eval() if ema_decay else None
        self.adversarial = ADVERSARIAL[adversarial]
        self.cycle_weight, self.identity_weight = cycle_weight, cycle_weight * identity_share
        self.discriminator_scale = discriminator_scale
        self.ema_decay, self.averaged_steps = ema_decay, 0
        self.pool_a, self.pool_b = ImagePool(pool_size, 2 * seed), ImagePool(pool_size, 2 * seed + 1)
        self.rates = {"generators": learning_rate, "discriminators": discriminator_learning_rate}
        self.optimisers = {
            name: torch.optim.Adam(
                chain(*(network.parameters() for network in networks)),
                lr=self.rates[name],
                betas=(beta1, 0.999),
                fused=device.type in ("cpu", "cuda"),
            )
            for name, networks in (("generators", (self.G, self.F)), ("discriminators", (self.D_A, self.D_B)))
        }
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.autocast = (lambda: torch.autocast(device.type, low)) if low else nullcontext
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def step(self, real_a: Tensor, real_b: Tensor) -> dict[str, Tensor]:
        """See `Engine.step`: one generator and one discriminator update (section 3, equations 1-3)."""
        with self.autocast():
            generator_losses, fake_a, fake_b = self._generator_losses(real_a, real_b)
            discriminator_losses = self._discriminator_losses(real_a, real_b, fake_a, fake_b)
        losses = {**generator_losses, **discriminator_losses}
        if all_finite(losses):
            self._update("generators", sum(generator_losses.values()))
            self._update("discriminators", sum(discriminator_losses.values()))
            self.scaler.update()
            self._average()
            self.pool_a.commit()
            self.pool_b.commit()
        return {name: loss.detach() for name, loss in losses.items()}

    def _generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the weighted terms of equation 3 with the identity loss, and the two translations."""
        _require_grad([self.D_A, self.D_B], False)  # the generators' step needs no gradient of their weights
        fake_b, same_b = self._translate(self.G, real_a, real_b)  # G(a), G(b)
        fake_a, same_a = self._translate(self.F, real_b, real_a)  # F(b), F(a)
        losses = {
            "adversarial_G": self.adversarial(self.D_B(fake_b), True),
            "adversarial_F": self.adversarial(self.D_A(fake_a), True),
            "cycle_a": self.cycle_weight * mean_absolute(self.F(fake_b), real_a),  # F(G(a)) ≈ a
            "cycle_b": self.cycle_weight * mean_absolute(self.G(fake_a), real_b),  # G(F(b)) ≈ b
        }
        if self.identity_weight:
            losses["identity_a"] = self.identity_weight * mean_absolute(same_a, real_a)  # F(a) ≈ a
            losses["identity_b"] = self.identity_weight * mean_absolute(same_b, real_b)  # G(b) ≈ b
        _require_grad([self.D_A, self.D_B], True)
        return losses, fake_a, fake_b

    def _translate(self, generator: nn.Module, image: Tensor, own: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return generator(image) and generator(own), in one pass: norms are per sample, so they do not mix."""
        if not self.identity_weight:
            return generator(image), None
        both = generator(torch.cat([image, own]))
        return both[: len(image)], both[len(image) :]

    def _discriminator_losses(
        self, real_a: Tensor, real_b: Tensor, fake_a: Tensor, fake_b: Tensor
    ) -> dict[str, Tensor]:
        """Return each discriminator's loss on real images and on translations from its pool (equation 1)."""
        return {
            name: self.discriminator_scale
            * (self.adversarial(discriminator(real), True) + self.adversarial(discriminator(pool.query(fake)), False))
            for name, discriminator, real, fake, pool in (
                ("discriminator_A", self.D_A, real_a, fake_a, self.pool_a),
                ("discriminator_B", self.D_B, real_b, fake_b, self.pool_b),
            )
        }

    def _update(self, name: str, loss: Tensor) -> None:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(optimiser)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged generators towards the present ones, faster in the first steps."""
        if self.averaged is not None:
            self.averaged_steps += 1
            decay = min(self.ema_decay, (1 + self.averaged_steps) / (10 + self.averaged_steps))
            latest = chain(self.G.parameters(), self.F.parameters())
            for mean, weight in zip(self.averaged.parameters(), latest, strict=True):
                mean.lerp_(weight, 1 - decay)

    def set_learning_rate(self, factor: float) -> dict[str, float]:
        """See `Engine.set_learning_rate`."""
        rates = {name: rate * factor for name, rate in self.rates.items()}
        for name, optimiser in self.optimisers.items():
            optimiser.param_groups[0]["lr"] = rates[name]
        return rates

    def translators(self) -> dict[str, nn.Module]:
        """See `Engine.translators`: F for "a" and G for "b", averaged where an average is kept."""
        g, f = self.averaged if self.averaged is not None else (self.G, self.F)
        return {"a": f, "b": g}

    def networks(self) -> dict[str, nn.Module]:
        """See `Engine.networks`."""
        return {"G": self.G, "F": self.F, "D_A": self.D_A, "D_B": self.D_B}

    def _stateful(self) -> dict:
        """Return, by name, every part that has a state."""
        parts = {**self.networks(), "pool_a": self.pool_a, "pool_b": self.pool_b, "scaler": self.scaler}
        parts |= {f"optimiser_{name}": optimiser for name, optimiser in self.optimisers.items()}
        return parts if self.averaged is None else {**parts, "averaged": self.averaged}

    def state_dict(self) -> dict:
        """See `Engine.state_dict`."""
        parts = {name: part.state_dict() for name, part in self._stateful().items()}
        return {**parts, "averaged_steps": self.averaged_steps}

    def load_state_dict(self, state: dict) -> None:
        """See `Engine.load_state_dict`."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.averaged_steps = state["averaged_steps"]


def _require_grad(networks: list[nn.Module], on: bool) -> None:
    for network in networks:
        network.requires_grad_(on)
