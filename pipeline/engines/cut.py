"""CUT: contrastive unpaired translation, one-sided (Park et al. 2020)."""

import torch
import torch.nn.functional as functional
from torch import Tensor

from networks.patch_features import PatchFeatureHead
from pipeline.config.schema import Config
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, AdversarialEngine, Losses
from pipeline.engines.builders import build_generator
from pipeline.engines.state import RandomState


class Cut(AdversarialEngine):
    """Two one-sided translations side by side: G from a to b and F from b to a, which share nothing.

    What holds a translation to its source is no cycle but the PatchNCE loss (equations 2 and 3): through the
    generator's own encoder, a place in the output must be more like the same place in the input than like any other.

    `nce_weight` weights each of the two PatchNCE terms, as λ_X = λ_Y in equation 5 (1 in the paper's CUT). The authors'
    code (taesungp/contrastive-unpaired-translation) takes their mean: 0.5 here.
    """

    def __init__(self, config: Config, device: torch.device):
        generators = {name: build_generator(config) for name in ("G", "F")}
        heads = {
            f"H_{name}": PatchFeatureHead(generator.feature_channels, config.method.head_width)
            for name, generator in generators.items()
        }
        super().__init__(config, device, {**generators, **heads})
        self.random = RandomState(config.seed, device)  # which places are compared

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `AdversarialEngine.losses`: equation 5, for each direction."""
        generators, discriminators = {}, {}
        for name, judge, source, target in (("G", "D_B", real_a, real_b), ("F", "D_A", real_b, real_a)):
            generator = self.generators[name]
            translated = generator(torch.cat([source, target]) if self.method.identity else source)
            fake, same = translated[: len(source)], translated[len(source) :]
            generators[f"adversarial_{name}"] = self.generator_adversarial_loss(judge, fake)
            generators[f"nce_{name}"] = self.method.nce_weight * self._patch_nce(name, source, fake)
            if self.method.identity:
                generators[f"nce_identity_{name}"] = self.method.nce_weight * self._patch_nce(name, target, same)
            discriminators[f"discriminator_{judge[-1]}"] = self.discriminator_loss(judge, target, fake)
        return {GENERATORS: generators, DISCRIMINATORS: discriminators}

    def _patch_nce(self, name: str, source: Tensor, output: Tensor) -> Tensor:
        """Return equation 3, as a mean over layers and places; the source's side is held fixed."""
        generator, head = self.generators[name], self.generators[f"H_{name}"]
        found = generator.features(output)
        places = [self.random.choice(one[0, 0].numel(), self.method.patches).to(source.device) for one in found]
        queries = head([_at(one, index) for one, index in zip(found, places, strict=True)])
        with torch.no_grad():  # after the queries: autocast keeps weights as they were first cast, gradients or none
            wanted = generator.features(source)
            keys = head([_at(one, index) for one, index in zip(wanted, places, strict=True)])
        terms = [self._contrast(query, key) for query, key in zip(queries, keys, strict=True)]
        return torch.stack(terms).mean()

    def _contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the cross-entropy (equation 2) of telling each place from the others of its own image.

        Half precision is left out: the division by the temperature would make much of its rounding.

        Args:
            queries: (N, P, C), of length 1, from the output.
            keys: The same from the source.
        """
        with self.full_precision():
            kind = torch.promote_types(queries.dtype, torch.float32)
            likeness = queries.to(kind) @ keys.to(kind).transpose(1, 2) / self.method.temperature  # (N, P, P)
            own = torch.arange(likeness.shape[1], device=likeness.device).expand(len(likeness), -1)
            return functional.cross_entropy(likeness.flatten(0, 1), own.flatten())

    def extra_state(self) -> dict[str, object]:
        """See `AdversarialEngine.extra_state`."""
        return {"random": self.random}


def _at(features: Tensor, places: Tensor) -> Tensor:
    """Return the vectors (N, P, C) of features (N, C, h, w) at P flat places."""
    return features.flatten(2)[:, :, places].transpose(1, 2)


ENGINE = Cut
