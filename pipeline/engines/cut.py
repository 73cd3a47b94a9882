"""CUT: contrastive unpaired translation, one-sided (Park et al. 2020)."""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from networks.patch_features import PatchFeatureHead
from pipeline.config.schema import Config
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, AdversarialEngine, Losses
from pipeline.engines.parts import build_discriminator, build_generator
from pipeline.engines.state import RandomState


class Cut(AdversarialEngine):
    """Two one-sided translations side by side: G from a to b and F from b to a, which share nothing.

    What holds a translation to its source is no cycle but the PatchNCE loss (equations 3-5): through the generator's
    own encoder, a place in the output must be more like the same place in the input than like any other place.
    """

    def __init__(self, config: Config, device: torch.device):
        self.method = config.method
        generators = {name: build_generator(config) for name in ("G", "F")}
        heads = {
            f"H_{name}": PatchFeatureHead(generator.feature_channels, self.method.head_width)
            for name, generator in generators.items()
        }
        discriminators = {name: build_discriminator(config) for name in ("D_A", "D_B")}
        super().__init__(config, device, {**generators, **heads}, discriminators)
        self.random = RandomState(config.seed)

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `AdversarialEngine.losses`: equation 6, for each direction."""
        by_player: dict[str, Losses] = {GENERATORS: {}, DISCRIMINATORS: {}}
        for name, judge, source, target in (("G", "D_B", real_a, real_b), ("F", "D_A", real_b, real_a)):
            generator, discriminator = self.generators[name], self.discriminators[judge]
            translated = generator(torch.cat([source, target]) if self.method.identity else source)
            fake, same = translated[: len(source)], translated[len(source) :]
            losses = by_player[GENERATORS]
            with self.frozen(discriminator):
                losses[f"adversarial_{name}"] = self.adversarial(discriminator(fake), True)
            losses[f"nce_{name}"] = self.method.nce_weight * self._patch_nce(name, source, fake)
            if self.method.identity:
                losses[f"nce_identity_{name}"] = self.method.nce_weight * self._patch_nce(name, target, same)
            judged = self.adversarial(discriminator(target), True) + self.adversarial(
                discriminator(fake.detach()), False
            )
            by_player[DISCRIMINATORS][f"discriminator_{judge[-1]}"] = self.method.discriminator_scale * judged
        return by_player

    def _patch_nce(self, name: str, source: Tensor, output: Tensor) -> Tensor:
        """Return the mean over layers and places of equation 3's cross-entropy; the source's side is held fixed."""
        generator, head = self.generators[name], self.generators[f"H_{name}"]
        wanted, found = generator.features(source), generator.features(output)
        places = [self.random.choice(one[0, 0].numel(), self.method.patches).to(source.device) for one in wanted]
        keys = head([_at(one, index) for one, index in zip(wanted, places, strict=True)])
        queries = head([_at(one, index) for one, index in zip(found, places, strict=True)])
        terms = [self._contrast(query, key.detach()) for query, key in zip(queries, keys, strict=True)]
        return torch.stack(terms).mean()

    def _contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the cross-entropy of telling, by (N, P, C) vectors, each place from the others of its own image."""
        likeness = queries.float() @ keys.float().transpose(1, 2) / self.method.temperature  # (N, P, P)
        own = torch.arange(likeness.shape[1], device=likeness.device).expand(len(likeness), -1)
        return functional.cross_entropy(likeness.flatten(0, 1), own.flatten())

    def kept(self) -> dict[str, object]:
        """See `AdversarialEngine.kept`."""
        return {"random": self.random}

    def translators(self) -> dict[str, nn.Module]:
        """See `Engine.translators`: F for "a" and G for "b"."""
        generators = self.best_generators()
        return {"a": generators["F"], "b": generators["G"]}


def _at(features: Tensor, places: Tensor) -> Tensor:
    """Return the vectors (N, P, C) of features (N, C, h, w) at P flat places."""
    return features.flatten(2)[:, :, places].transpose(1, 2)


ENGINE = Cut
