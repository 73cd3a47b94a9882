"""pix2pix: translation learnt from registered pairs, each direction by a network of its own (Isola et al. 2017)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from networks.neighbours import middle_slice
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, Engine, Losses, MethodOptions
from pipeline.engines.losses import mean_absolute, structural_dissimilarity


@dataclass(frozen=True, kw_only=True)
class Pix2PixOptions(MethodOptions):
    """Options of pix2pix."""

    adversarial: str = "bce"
    adversarial_weight: float = 1.0  # weight of the adversarial loss; 0: there are no discriminators
    l1_weight: float = 100.0  # weight λ of the L1 distance (equation 4)
    ssim_weight: float = 0.0  # weight of 1 - SSIM beside it


class Pix2Pix(Engine):
    """G translates a to b, F translates b to a; D_B judges pairs (a, G(a)), D_A pairs (b, F(b)) (section 3.1).

    With `adversarial_weight: 0` there are no discriminators: plain L1 regression. It needs both
    contrasts of a subject, so it shows what pairs teach, and is no competitor of the unpaired methods.
    """

    options: Pix2PixOptions
    paired = True

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `Engine.losses`: equation 4, for each direction, on both contrasts of the same slices."""
        generators, discriminators = {}, {}
        for name, discriminator, source, target in (("G", "D_B", real_a, real_b), ("F", "D_A", real_b, real_a)):
            fake = self.generators[name](source)
            source, target = middle_slice(source), middle_slice(target)
            generators[f"l1_{name}"] = self.options.l1_weight * mean_absolute(fake, target)
            if self.options.ssim_weight:
                generators[f"ssim_{name}"] = self.options.ssim_weight * structural_dissimilarity(fake, target)
            if self.options.adversarial_weight:
                real_pair, fake_pair = (torch.cat([source, image], dim=1) for image in (target, fake))  # (N, 2, H, W)
                adversarial = self.generator_adversarial_loss(discriminator, fake_pair)
                generators[f"adversarial_{name}"] = self.options.adversarial_weight * adversarial
                loss = self.discriminator_loss(discriminator, real_pair, fake_pair)
                discriminators[f"discriminator_{discriminator[-1]}"] = loss
        losses_by_player = {GENERATORS: generators, DISCRIMINATORS: discriminators}
        return {player: losses for player, losses in losses_by_player.items() if losses}


ENGINE, OPTIONS = Pix2Pix, Pix2PixOptions
