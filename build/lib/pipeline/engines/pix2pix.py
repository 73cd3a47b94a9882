"""pix2pix: translation learnt from registered pairs, each direction by a network of its own (Isola et al. 2017)."""

import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, AdversarialEngine, Losses
from pipeline.engines.builders import build_discriminator, build_generator
from pipeline.engines.losses import mean_absolute


class Pix2Pix(AdversarialEngine):
    """G translates a to b, F translates b to a; D_B judges pairs (a, G(a)), D_A pairs (b, F(b)) (section 3.1).

    With `adversarial_weight: 0` there are no discriminators: plain L1 regression. It needs both
    contrasts of a subject, so it is a bound for the unpaired methods and not a competitor.
    """

    paired = True

    def __init__(self, config: Config, device: torch.device):
        generators = {name: build_generator(config) for name in ("G", "F")}
        discriminator_names = ("D_A", "D_B") if config.method.adversarial_weight else ()
        super().__init__(
            config, device, generators, {name: build_discriminator(config, channels=2) for name in discriminator_names}
        )

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `AdversarialEngine.losses`: equation 4, for each direction, on both contrasts of the same slices."""
        generators, discriminators = {}, {}
        for name, discriminator, source, target in (("G", "D_B", real_a, real_b), ("F", "D_A", real_b, real_a)):
            fake = self.generators[name](source)
            generators[f"l1_{name}"] = self.method.l1_weight * mean_absolute(fake, target)
            if self.method.adversarial_weight:
                real_pair, fake_pair = (
                    torch.cat([source, target], dim=1),
                    torch.cat([source, fake], dim=1),
                )  # (N, 2, H, W)
                generators[f"adversarial_{name}"] = self.method.adversarial_weight * self.generator_adversarial_loss(
                    discriminator, fake_pair
                )
                discriminators[f"discriminator_{discriminator[-1]}"] = self.discriminator_loss(
                    discriminator, real_pair, fake_pair
                )
        losses_by_player = {GENERATORS: generators, DISCRIMINATORS: discriminators}
        return {player: losses for player, losses in losses_by_player.items() if losses}


ENGINE = Pix2Pix
