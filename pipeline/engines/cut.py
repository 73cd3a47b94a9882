"""CUT: contrastive unpaired translation, one-sided (Park et al. 2020)."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as functional
from torch import Tensor

from networks.neighbours import middle_slice
from networks.patch_features import FeatureGenerator
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, Losses
from pipeline.engines.unpaired import UnpairedEngine, UnpairedOptions


@dataclass(frozen=True, kw_only=True)
class CutOptions(UnpairedOptions):
    """Options of CUT."""

    nce_weight: float = 1.0  # weight of each PatchNCE term
    identity: bool = True  # whether targets and their translations to themselves are compared too
    temperature: float = 0.07  # temperature τ of the cross-entropy (equation 2)
    patches: int = 256  # number of positions that are compared in each layer and image


class Cut(UnpairedEngine):
    """Two independent one-sided translations: G from a to b and F from b to a.

    Instead of a cycle, the PatchNCE loss (equations 2 and 3) ties a translation to its source: in the features of the
    generator's encoder, a position of the output must resemble the same position of the input more than any other.

    `nce_weight` weights each of the two PatchNCE terms, as λ_X = λ_Y in equation 5 (1 in the paper's CUT). The authors'
    code (taesungp/contrastive-unpaired-translation) takes their mean: 0.5 here.
    """

    options: CutOptions
    draws = True  # the positions that are compared

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `Engine.losses`: equation 5, for each direction."""
        generators: Losses = {}
        discriminators: Losses = {}
        for name, discriminator, source, target in (("G", "D_B", real_a, real_b), ("F", "D_A", real_b, real_a)):
            generator = self.generators[name]
            translated = generator(torch.cat([source, target]) if self.options.identity else source)
            fake, identity = translated[: len(source)], translated[len(source) :]
            generators[f"adversarial_{name}"] = self.generator_adversarial_loss(discriminator, fake)
            generators[f"nce_{name}"] = self.options.nce_weight * self._patch_nce(name, source, fake)
            if self.options.identity:
                generators[f"nce_identity_{name}"] = self.options.nce_weight * self._patch_nce(name, target, identity)
            generators |= self.source_losses(name, fake, source)
            discriminators |= self.discriminator_losses(discriminator[-1], middle_slice(target), fake)
        return {GENERATORS: generators, DISCRIMINATORS: discriminators}

    def _patch_nce(self, name: str, source: Tensor, output: Tensor) -> Tensor:
        """Return equation 3, as a mean over layers and positions; the source's features get no gradients."""
        generator, head = cast(FeatureGenerator, self.generators[name]), self.generators[f"H_{name}"]
        output_features = generator.features(output)
        positions = [
            self.random.choice(features[0, 0].numel(), self.options.patches).to(source.device)
            for features in output_features
        ]

        def project(layers: list[Tensor]) -> list[Tensor]:
            return head([_vectors_at(layer, index) for layer, index in zip(layers, positions, strict=True)])

        queries = project(output_features)
        with torch.no_grad():  # after the queries: autocast caches casts of weights, with or without gradients
            keys = project(generator.features(source))
        terms = [self._contrastive_loss(query, key) for query, key in zip(queries, keys, strict=True)]
        return torch.stack(terms).mean()

    def _contrastive_loss(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the cross-entropy (equation 2) of matching each position among those of its image.

        Queries, of the output, and keys, of the source, are (N, P, C) vectors of length 1. It is in full precision, for
        the division by the temperature would amplify rounding errors.
        """
        with self.full_precision():
            dtype = torch.promote_types(queries.dtype, torch.float32)
            similarity = queries.to(dtype) @ keys.to(dtype).transpose(1, 2) / self.options.temperature  # (N, P, P)
            labels = torch.arange(similarity.shape[1], device=similarity.device).expand(len(similarity), -1)
            return functional.cross_entropy(similarity.flatten(0, 1), labels.flatten())


def _vectors_at(features: Tensor, positions: Tensor) -> Tensor:
    """Return the vectors (N, P, C) of features (N, C, h, w) at P positions, counted along h · w."""
    return features.flatten(2)[:, :, positions].transpose(1, 2)


ENGINE, OPTIONS = Cut, CutOptions
