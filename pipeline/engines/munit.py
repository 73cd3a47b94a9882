"""MUNIT: unpaired translation by swapping styles over a shared content (Huang et al. 2018)."""

import torch
from torch import Tensor, nn

from networks.munit import AutoEncoder, StyleTranslator
from pipeline.config.schema import Config
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, AdversarialEngine, Losses
from pipeline.engines.parts import build_discriminator, build_generator
from pipeline.engines.state import MeanStyle, RandomState
from pipeline.losses import mean_absolute


class Munit(AdversarialEngine):
    """An auto-encoder per contrast, A and B, which part an image into content and style, and a discriminator each.

    A translation joins an image's content and a style of the other contrast: in training one drawn from N(0, 1); for
    volumes a single style for every slice, by default the mean of those that training encoded (a running mean).
    """

    def __init__(self, config: Config, device: torch.device):
        autoencoders = {name: build_generator(config) for name in ("A", "B")}
        discriminators = {name: build_discriminator(config) for name in ("D_A", "D_B")}
        super().__init__(config, device, autoencoders, discriminators)
        self.method = config.method
        size = config.generator.style_size
        self.random = RandomState(config.seed)
        self.styles = {name: MeanStyle(size) for name in ("A", "B")}
        self.drawn = {name: self.random.normal(size) for name in ("A", "B")}  # for translate_with: random
        self._encoded: dict[str, Tensor] = {}

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `AdversarialEngine.losses`: equations 2-6 and, of section 5.1, the style-augmented cycle."""
        with self.frozen(self.discriminators):
            generator_losses, fake_a, fake_b = self._generator_losses(real_a, real_b)
        judged = (("discriminator_A", "D_A", real_a, fake_a), ("discriminator_B", "D_B", real_b, fake_b))
        return {
            GENERATORS: generator_losses,
            DISCRIMINATORS: {
                name: self.method.discriminator_scale
                * (
                    self.adversarial(self.discriminators[judge](real), True)
                    + self.adversarial(self.discriminators[judge](fake.detach()), False)
                )
                for name, judge, real, fake in judged
            },
        }

    def _generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[Losses, Tensor, Tensor]:
        A, B, weights = self.generators["A"], self.generators["B"], self.method
        (content_a, style_a), (content_b, style_b) = A.encode(real_a), B.encode(real_b)
        self._encoded = {"A": style_a.detach().mean(dim=0), "B": style_b.detach().mean(dim=0)}
        drawn_a, drawn_b = (self.random.normal(*style_a.shape).to(style_a) for _ in range(2))
        fake_a, fake_b = A.decode(content_b, drawn_a), B.decode(content_a, drawn_b)
        (content_back_b, style_back_a), (content_back_a, style_back_b) = A.encode(fake_a), B.encode(fake_b)
        losses = {
            "adversarial_A": weights.adversarial_weight * self.adversarial(self.discriminators["D_A"](fake_a), True),
            "adversarial_B": weights.adversarial_weight * self.adversarial(self.discriminators["D_B"](fake_b), True),
            "image_a": weights.image_weight * mean_absolute(A.decode(content_a, style_a), real_a),
            "image_b": weights.image_weight * mean_absolute(B.decode(content_b, style_b), real_b),
            "content_a": weights.content_weight * mean_absolute(content_back_a, content_a),
            "content_b": weights.content_weight * mean_absolute(content_back_b, content_b),
            "style_a": weights.style_weight * mean_absolute(style_back_a, drawn_a),
            "style_b": weights.style_weight * mean_absolute(style_back_b, drawn_b),
        }
        if weights.cycle_weight:
            losses["cycle_a"] = weights.cycle_weight * mean_absolute(A.decode(content_back_a, style_a), real_a)
            losses["cycle_b"] = weights.cycle_weight * mean_absolute(B.decode(content_back_b, style_b), real_b)
        return losses, fake_a, fake_b

    def moved(self) -> None:
        """See `AdversarialEngine.moved`: the mean styles take in those of the step."""
        for name, style in self._encoded.items():
            self.styles[name].take_in(style)

    def kept(self) -> dict[str, object]:
        """See `AdversarialEngine.kept`."""
        return {"random": self.random, **{f"style_{name}": style for name, style in self.styles.items()}}

    def translators(self) -> dict[str, nn.Module]:
        """See `Engine.translators`: content of the other contrast, and the style of the target."""
        translators = _translators(self.best_generators())
        for name, side in (("A", "a"), ("B", "b")):
            mean = self.method.translate_with == "mean"
            translators[side].set_style(self.styles[name].mean if mean else self.drawn[name])
        return translators

    @staticmethod
    def build_translators(config: Config) -> dict[str, nn.Module]:
        """See `AdversarialEngine.build_translators`."""
        return _translators({name: build_generator(config) for name in ("A", "B")})


def _translators(autoencoders: dict[str, AutoEncoder] | nn.ModuleDict) -> dict[str, StyleTranslator]:
    A, B = autoencoders["A"], autoencoders["B"]
    device = next(A.parameters()).device
    pairs = {"a": (B.content_encoder, A), "b": (A.content_encoder, B)}
    return {side: StyleTranslator(content, target).to(device) for side, (content, target) in pairs.items()}


ENGINE = Munit
