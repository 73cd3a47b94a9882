"""DualGAN: unpaired translation by two critics and L1 reconstruction (Yi et al. 2017)."""

import torch
from torch import Tensor, nn

from pipeline.config.schema import Config
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, AdversarialEngine, Losses
from pipeline.engines.parts import build_discriminator, build_generator
from pipeline.engines.state import RandomState, StepCount
from pipeline.losses import mean_absolute


class DualGan(AdversarialEngine):
    """G translates a to b, F translates b to a; the losses of section 3.2 with any adversarial loss.

    With `adversarial: wasserstein` the critics move at every step and the generators at each `critic_steps`-th, and
    the critics are kept Lipschitz by clipping their weights (as published) or by a gradient penalty (Gulrajani et al.
    2017). The noise of the paper is the generators' dropout.
    """

    def __init__(self, config: Config, device: torch.device):
        generators = {name: build_generator(config) for name in ("G", "F")}
        discriminators = {name: build_discriminator(config) for name in ("D_A", "D_B")}
        super().__init__(config, device, generators, discriminators)
        self.method = config.method
        self.steps = StepCount()
        self.random = RandomState(config.seed)  # where the gradient penalty looks

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `AdversarialEngine.losses`: equations 1-3."""
        turn = (self.steps.made + 1) % self.method.critic_steps == 0
        with self.frozen(self.discriminators), torch.set_grad_enabled(turn):
            generator_losses, fake_a, fake_b = self._generator_losses(real_a, real_b)
        critic_losses = {
            **self._critic_losses("discriminator_A", self.discriminators["D_A"], real_a, fake_a.detach()),
            **self._critic_losses("discriminator_B", self.discriminators["D_B"], real_b, fake_b.detach()),
        }
        return (
            {GENERATORS: generator_losses, DISCRIMINATORS: critic_losses} if turn else {DISCRIMINATORS: critic_losses}
        )

    def _generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[Losses, Tensor, Tensor]:
        G, F, weight = self.generators["G"], self.generators["F"], self.method.reconstruction_weight
        fake_b, fake_a = G(real_a), F(real_b)
        losses = {
            "adversarial_G": self.adversarial(self.discriminators["D_B"](fake_b), True),
            "adversarial_F": self.adversarial(self.discriminators["D_A"](fake_a), True),
            "reconstruction_a": weight * mean_absolute(F(fake_b), real_a),
            "reconstruction_b": weight * mean_absolute(G(fake_a), real_b),
        }
        return losses, fake_a, fake_b

    def _critic_losses(self, name: str, critic: nn.Module, real: Tensor, fake: Tensor) -> Losses:
        judged = self.adversarial(critic(real), True) + self.adversarial(critic(fake), False)
        losses = {name: self.method.discriminator_scale * judged}
        if self.method.gradient_penalty:
            losses[f"gradient_penalty_{name[-1]}"] = self.method.gradient_penalty * self._steepness(critic, real, fake)
        return losses

    def _steepness(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Return the mean (‖∇D‖ - 1)² between real images and translations (Gulrajani et al. 2017, equation 3)."""
        share = self.random.uniform(len(real), 1, 1, 1).to(real)
        between = torch.lerp(real, fake, share).requires_grad_()
        logits = critic(between)
        total = sum(one.float().sum() for one in logits) if isinstance(logits, list) else logits.float().sum()
        (slope,) = torch.autograd.grad(total, between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    @torch.no_grad()
    def moved(self) -> None:
        """See `AdversarialEngine.moved`: clip the critics and count the step."""
        self.steps.made += 1
        if self.method.clip is not None:
            for weight in self.discriminators.parameters():
                weight.clamp_(-self.method.clip, self.method.clip)

    def kept(self) -> dict[str, object]:
        """See `AdversarialEngine.kept`."""
        return {"steps": self.steps, "random": self.random}

    def translators(self) -> dict[str, nn.Module]:
        """See `Engine.translators`: F for "a" and G for "b"."""
        generators = self.best_generators()
        return {"a": generators["F"], "b": generators["G"]}


ENGINE = DualGan
