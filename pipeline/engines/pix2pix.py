"""pix2pix: translation learnt from registered pairs, each way by a network of its own (Isola et al. 2017)."""

import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, AdversarialEngine, Losses
from pipeline.engines.builders import build_discriminator, build_generator
from pipeline.engines.losses import mean_absolute


class Pix2Pix(AdversarialEngine):
    """G translates a to b, F translates b to a; D_B judges pairs (a, G(a)), D_A pairs (b, F(b)) (section 3.1).

    With `adversarial_weight: 0` there are no discriminators: plain L1 regression. As both contrasts of a subject are
    needed, this is no rival of the unpaired methods but a measured bound for them.
    """

    paired = True

    def __init__(self, config: Config, device: torch.device):
        generators = {name: build_generator(config) for name in ("G", "F")}
        judges = ("D_A", "D_B") if config.method.adversarial_weight else ()
        super().__init__(config, device, generators, {name: build_discriminator(config, channels=2) for name in judges})

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `AdversarialEngine.losses`: equation 4, for each direction, on both contrasts of the same slices."""
        generators, discriminators = {}, {}
        for name, judge, source, target in (("G", "D_B", real_a, real_b), ("F", "D_A", real_b, real_a)):
            fake = self.generators[name](source)
            generators[f"l1_{name}"] = self.method.l1_weight * mean_absolute(fake, target)
            if self.method.adversarial_weight:
                truth, made = torch.cat([source, target], dim=1), torch.cat([source, fake], dim=1)  # (N, 2, H, W)
                generators[f"adversarial_{name}"] = self.method.adversarial_weight * self.generator_adversarial_loss(
                    judge, made
                )
                discriminators[f"discriminator_{judge[-1]}"] = self.discriminator_loss(judge, truth, made)
        by_player = {GENERATORS: generators, DISCRIMINATORS: discriminators}
        return {player: losses for player, losses in by_player.items() if losses}


ENGINE = Pix2Pix
