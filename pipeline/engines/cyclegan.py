"""CycleGAN: unpaired translation with cycle-consistent adversarial networks (Zhu et al. 2017)."""

from dataclasses import dataclass

from torch import Tensor

from networks.neighbours import middle_slice
from pipeline.engines.base import Losses
from pipeline.engines.losses import mean_absolute
from pipeline.engines.unpaired import UnpairedEngine, UnpairedOptions, batched_forward


@dataclass(frozen=True, kw_only=True)
class CycleGanOptions(UnpairedOptions):
    """Options of CycleGAN."""

    cycle_weight: float = 10.0  # weight λ of the cycle (equation 3)
    identity_share: float = 0.5  # weight of the identity loss, as a share of `cycle_weight`; 0: none
    pool_size: int = 50  # number of earlier translations that each discriminator is shown again
    paired_weight: float = 10.0  # weight of the L1 loss on pairs, where there are any


class CycleGan(UnpairedEngine):
    """Two generators, two discriminators and the losses of section 3.

    G translates a to b, F translates b to a; D_A judges images of contrast a, D_B of contrast b.
    """

    options: CycleGanOptions

    def set_up(self) -> None:
        """See `Engine.set_up`: the networks by their names in the paper."""
        super().set_up()
        self.G, self.F = self.generators["G"], self.generators["F"]
        self.D_A, self.D_B = self.discriminators["D_A"], self.discriminators["D_B"]
        self.cycle_weight = self.options.cycle_weight
        self.identity_weight = self.cycle_weight * self.options.identity_share

    @property
    def pool_size(self) -> int:
        """See `UnpairedEngine.pool_size`."""
        return self.options.pool_size

    def generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[Losses, Tensor, Tensor]:
        """See `UnpairedEngine`: equation 3 and, of section 5.2, the identity loss."""
        identity_input_a, identity_input_b = ((real_a,), (real_b,)) if self.identity_weight else ((), ())
        fake_a, *identity_a = batched_forward(self.F, real_b, *identity_input_a)  # F(b), F(a)
        cycle_input_a = (fake_a,) if self.cycle_weight else ()
        # G(a), G(F(b)), G(b)
        fake_b, *rest = batched_forward(self.G, real_a, *cycle_input_a, *identity_input_b)
        losses = {
            "adversarial_G": self.generator_adversarial_loss("D_B", fake_b),
            "adversarial_F": self.generator_adversarial_loss("D_A", fake_a),
        }
        if self.cycle_weight:
            losses["cycle_a"] = self.cycle_weight * mean_absolute(self.F(fake_b), middle_slice(real_a))  # F(G(a)) ≈ a
            losses["cycle_b"] = self.cycle_weight * mean_absolute(rest[0], middle_slice(real_b))  # G(F(b)) ≈ b
        if self.identity_weight:
            losses["identity_a"] = self.identity_weight * mean_absolute(identity_a[0], middle_slice(real_a))  # F(a) ≈ a
            losses["identity_b"] = self.identity_weight * mean_absolute(rest[-1], middle_slice(real_b))  # G(b) ≈ b
        return losses, fake_a, fake_b

    def paired_losses(self, image_a: Tensor, image_b: Tensor) -> Losses:
        """See `Engine.paired_losses`: the L1 loss of pix2pix (Isola et al. 2017, equation 3) in both directions."""
        fake_b, fake_a = self.G(image_a), self.F(image_b)
        return {
            "paired_G": self.options.paired_weight * mean_absolute(fake_b, middle_slice(image_b)),
            "paired_F": self.options.paired_weight * mean_absolute(fake_a, middle_slice(image_a)),
        }


ENGINE, OPTIONS = CycleGan, CycleGanOptions
