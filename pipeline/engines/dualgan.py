"""DualGAN: unpaired translation by two critics and L1 reconstruction (Yi et al. 2017)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from networks.cpu_kernels import twice_differentiable
from networks.neighbours import middle_slice
from pipeline.engines.base import Losses
from pipeline.engines.losses import mean_absolute, wasserstein
from pipeline.engines.state import Stateful, StepCounter
from pipeline.engines.unpaired import UnpairedEngine, UnpairedOptions, batched_forward


@dataclass(frozen=True, kw_only=True)
class DualGanOptions(UnpairedOptions):
    """Options of DualGAN."""

    reconstruction_weight: float = 10.0  # weight λ of the L1 reconstruction (equation 2)
    clip: float | None = None  # bound on the critics' weights (algorithm 1), or None
    gradient_penalty: float = 0.0  # weight of the critics' gradient penalty; 0: none
    critic_steps: int = 1  # number of the critics' updates for each of the generators'


class DualGan(UnpairedEngine):
    """G translates a to b, F translates b to a; the losses of section 3.2 with any adversarial loss.

    With `adversarial: wasserstein` the critics move at every step and the generators at each `critic_steps`-th
    (algorithm 1), and the critics are kept Lipschitz by clipping their weights (as published) or by a gradient penalty
    (Gulrajani et al. 2017). The noise of the paper is the generators' dropout.
    """

    options: DualGanOptions
    draws = True  # the gradient penalty's positions between images

    def set_up(self) -> None:
        """See `Engine.set_up`: the steps counted."""
        super().set_up()
        # If critics move more often, Python reads the count to know whose turn it is: then it stays on the CPU.
        self.steps = StepCounter(self.device if self.critic_steps == 1 else torch.device("cpu"))

    @property
    def critic_steps(self) -> int:
        return self.options.critic_steps

    def generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[Losses, Tensor, Tensor]:
        """See `UnpairedEngine`: equations 1-3."""
        G, F, weight = self.generators["G"], self.generators["F"], self.options.reconstruction_weight
        if self.critic_steps > 1 and (int(self.steps.count) + 1) % self.critic_steps:  # the critics move alone
            with torch.no_grad():
                return {}, F(real_b), G(real_a)
        fake_a = F(real_b)
        fake_b, reconstructed_b = batched_forward(G, real_a, fake_a)
        losses = {
            "adversarial_G": self.generator_adversarial_loss("D_B", fake_b),
            "adversarial_F": self.generator_adversarial_loss("D_A", fake_a),
            "reconstruction_a": weight * mean_absolute(F(fake_b), middle_slice(real_a)),
            "reconstruction_b": weight * mean_absolute(reconstructed_b, middle_slice(real_b)),
        }
        return losses, fake_a, fake_b

    def discriminator_losses(self, side: str, real: Tensor, fake: Tensor) -> Losses:
        """See `UnpairedEngine`: with the gradient penalty."""
        losses = super().discriminator_losses(side, real, fake)
        if self.options.gradient_penalty:
            weight = self.options.discriminator_scale * self.options.gradient_penalty
            losses[f"gradient_penalty_{side}"] = weight * self._gradient_penalty(f"D_{side}", real, fake.detach())
        return losses

    def _gradient_penalty(self, critic: str, real: Tensor, fake: Tensor) -> Tensor:
        """Return the mean (‖∇D‖ - 1)² between real images and translations (Gulrajani et al. 2017, equation 3).

        D(x) is the mean over an image's patches, summed over scales, as in the critic's loss. It is in full precision,
        for slopes need many digits, and with torch's own convolutions, which can be differentiated twice.
        """
        with self.full_precision(), twice_differentiable():
            fake, fraction = fake.to(real), self.sample_for_rank(self.random.uniform, len(real), 1, 1, 1).to(real)
            interpolated = torch.lerp(real, fake, fraction).requires_grad_()
            total = len(real) * wasserstein(self.discriminators[critic](interpolated), False)  # Σ D(x) over the batch
            (slope,) = torch.autograd.grad(total, interpolated, create_graph=True)
            return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    @torch.no_grad()
    def on_step_end(self, is_finite: Tensor) -> None:
        """See `Engine.on_step_end`: clip the critics (once more, if none moved) and count the step."""
        super().on_step_end(is_finite)
        self.steps.count += is_finite.to(self.steps.count.device)
        if self.options.clip is not None:
            for weight in self.discriminators.parameters():
                weight.clamp_(-self.options.clip, self.options.clip)

    def extra_state(self) -> dict[str, Stateful]:
        return {**super().extra_state(), "steps": self.steps}


ENGINE, OPTIONS = DualGan, DualGanOptions
