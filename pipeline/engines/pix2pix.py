"""pix2pix: translation learnt from registered pairs, each way by a network of its own (Isola et al. 2017)."""

import torch
from torch import Tensor, nn

from pipeline.config.schema import Config
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, AdversarialEngine, Losses
from pipeline.engines.parts import build_discriminator, build_generator
from pipeline.losses import mean_absolute


class Pix2Pix(AdversarialEngine):
    """G translates a to b, F translates b to a; D_B judges pairs (a, G(a)), D_A pairs (b, F(b)) (section 3.1).

    With `adversarial_weight: 0` there are no discriminators: plain L1 regression. As both contrasts of a subject are
    needed, this is no rival of the unpaired methods but a measured bound for them.
    """

    paired = True

    def __init__(self, config: Config, device: torch.device):
        self.l1_weight, self.adversarial_weight = config.method.l1_weight, config.method.adversarial_weight
        self.discriminator_scale = config.method.discriminator_scale
        generators = {name: build_generator(config) for name in ("G", "F")}
        judges = ("D_A", "D_B") if self.adversarial_weight else ()
        super().__init__(config, device, generators, {name: build_discriminator(config, channels=2) for name in judges})

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `AdversarialEngine.losses`: equation 4, for each direction, on both contrasts of the same slices."""
        by_player: dict[str, Losses] = {GENERATORS: {}, DISCRIMINATORS: {}}
        for name, judge, source, target in (("G", "D_B", real_a, real_b), ("F", "D_A", real_b, real_a)):
            fake = self.generators[name](source)
            by_player[GENERATORS][f"l1_{name}"] = self.l1_weight * mean_absolute(fake, target)
            if self.adversarial_weight:
                self._judge(name, judge, source, target, fake, by_player)
        return {player: losses for player, losses in by_player.items() if losses}

    def _judge(
        self, name: str, judge: str, source: Tensor, target: Tensor, fake: Tensor, by_player: dict[str, Losses]
    ) -> None:
        """Add the adversarial terms of one direction; the discriminator sees the source beside what it judges."""
        discriminator = self.discriminators[judge]
        with self.frozen(discriminator):
            believed = self.adversarial(discriminator(torch.cat([source, fake], dim=1)), True)
        by_player[GENERATORS][f"adversarial_{name}"] = self.adversarial_weight * believed
        on_real = self.adversarial(discriminator(torch.cat([source, target], dim=1)), True)
        on_fake = self.adversarial(discriminator(torch.cat([source, fake.detach()], dim=1)), False)
        by_player[DISCRIMINATORS][f"discriminator_{judge[-1]}"] = self.discriminator_scale * (on_real + on_fake)

    def translators(self) -> dict[str, nn.Module]:
        """See `Engine.translators`: F for "a" and G for "b"."""
        generators = self.best_generators()
        return {"a": generators["F"], "b": generators["G"]}


ENGINE = Pix2Pix
