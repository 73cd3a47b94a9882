"""UNIT: unpaired translation through a latent space that both contrasts share (Liu, Breuel and Kautz 2017)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.unit import LatentAutoEncoder, LatentTranslator
from pipeline.engines.base import Losses, Networks
from pipeline.engines.losses import divergence_from_normal, mean_absolute
from pipeline.engines.unpaired import UnpairedEngine, UnpairedOptions


@dataclass(frozen=True, kw_only=True)
class UnitOptions(UnpairedOptions):
    """Options of UNIT: the weights of section 3, by default those of the authors' code."""

    discriminator_scale: float = 1.0
    adversarial_weight: float = 1.0  # weight of the generators' adversarial loss
    image_weight: float = 10.0  # weight of an image's reconstruction from its own latent
    kl_weight: float = 0.02  # weight of the divergence of its latent from N(0, 1)
    cycle_weight: float = 10.0  # weight of the reconstruction by way of the other contrast
    cycle_kl_weight: float = 0.02  # weight of the divergence of the translation's latent


class Unit(UnpairedEngine):
    """A variational auto-encoder per contrast, A and B, and a discriminator each.

    The residual blocks next to the latent are the same in both. In training, noise from N(0, 1) is added to the
    latents' means, which the encoders return. A translation uses the mean itself, so that it is reproducible and the
    slices of a volume agree.

    Weights by default are those of the authors' code (NVlabs/MUNIT, `UNIT_Trainer`): adversarial 1, both
    reconstructions 10, both divergences 0.01, there of the mean μ², which is twice the divergence, so 0.02 here. The
    paper's experiments have 10, 100 and 0.1 (section 4).
    """

    options: UnitOptions
    draws = True

    def generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[Losses, Tensor, Tensor]:
        """See `UnpairedEngine`: section 3, "learning"."""
        (A, B), options = _autoencoders(self.generators), self.options
        mean_a, mean_b = A.encoder(real_a), B.encoder(real_b)
        latent_a, latent_b = self._sample_latent(mean_a), self._sample_latent(mean_b)
        # Translation and reconstruction share a decoder's pass; norms are per sample.
        fake_a, reconstructed_a = A.decoder(torch.cat([latent_b, latent_a])).chunk(2)
        fake_b, reconstructed_b = B.decoder(torch.cat([latent_a, latent_b])).chunk(2)
        recoded_mean_b, recoded_mean_a = A.encoder(fake_a), B.encoder(fake_b)
        cycled_a = A.decoder(self._sample_latent(recoded_mean_a))
        cycled_b = B.decoder(self._sample_latent(recoded_mean_b))
        losses = {
            "adversarial_A": options.adversarial_weight * self.generator_adversarial_loss("D_A", fake_a),
            "adversarial_B": options.adversarial_weight * self.generator_adversarial_loss("D_B", fake_b),
            "image_a": options.image_weight * mean_absolute(reconstructed_a, real_a),
            "image_b": options.image_weight * mean_absolute(reconstructed_b, real_b),
            "kl_a": options.kl_weight * divergence_from_normal(mean_a),
            "kl_b": options.kl_weight * divergence_from_normal(mean_b),
            "cycle_a": options.cycle_weight * mean_absolute(cycled_a, real_a),
            "cycle_b": options.cycle_weight * mean_absolute(cycled_b, real_b),
            "cycle_kl_a": options.cycle_kl_weight * divergence_from_normal(recoded_mean_a),
            "cycle_kl_b": options.cycle_kl_weight * divergence_from_normal(recoded_mean_b),
        }
        return losses, fake_a, fake_b

    def _sample_latent(self, mean: Tensor) -> Tensor:
        """Return latents drawn from N(mean, 1)."""
        return mean + self.sample_for_rank(self.random.normal, *mean.shape).to(mean)

    @staticmethod
    def translators_of(generators: Networks) -> dict[str, nn.Module]:
        """See `Engine.translators_of`: the encoder of the other contrast and the decoder of the target."""
        A, B = _autoencoders(generators)
        return {"a": LatentTranslator(B.encoder, A.decoder), "b": LatentTranslator(A.encoder, B.decoder)}


def _autoencoders(generators: Networks | nn.ModuleDict) -> tuple[LatentAutoEncoder, LatentAutoEncoder]:
    A, B = generators["A"], generators["B"]
    assert isinstance(A, LatentAutoEncoder) and isinstance(B, LatentAutoEncoder)
    return A, B


ENGINE, OPTIONS = Unit, UnitOptions
