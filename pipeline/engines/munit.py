"""MUNIT: unpaired translation by swapping styles over a shared content (Huang et al. 2018)."""

import torch
from torch import Tensor, nn

from networks.munit import AutoEncoder, StyleTranslator
from pipeline.config.schema import Config
from pipeline.engines.base import DISCRIMINATORS, GENERATORS, AdversarialEngine, Losses
from pipeline.engines.builders import build_generator
from pipeline.engines.losses import mean_absolute
from pipeline.engines.state import RandomState, Styles


class Munit(AdversarialEngine):
    """An auto-encoder per contrast, A and B, which part an image into content and style, and a discriminator each.

    A translation joins an image's content and a style of the other contrast: in training one drawn from N(0, 1); for
    volumes a single style for every slice, by default the mean of what the networks that translate make of the
    training images (a running mean).
    """

    def __init__(self, config: Config, device: torch.device):
        super().__init__(config, device, {name: build_generator(config) for name in ("A", "B")})
        self.random = RandomState(config.seed, device)
        self.styles = {name: Styles(self.random.normal(config.generator.style_size), device) for name in ("A", "B")}
        self._seen: dict[str, Tensor] = {}

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `AdversarialEngine.losses`: section 3.2 and, of section 4, style-augmented cycle consistency."""
        self._seen = {"A": real_a, "B": real_b}
        generator_losses, fake_a, fake_b = self._generator_losses(real_a, real_b)
        return {
            GENERATORS: generator_losses,
            DISCRIMINATORS: {
                "discriminator_A": self.discriminator_loss("D_A", real_a, fake_a),
                "discriminator_B": self.discriminator_loss("D_B", real_b, fake_b),
            },
        }

    def _generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[Losses, Tensor, Tensor]:
        A, B, weights = self.generators["A"], self.generators["B"], self.method
        cycle = bool(weights.cycle_weight)
        content_b, style_b = B.encode(real_b)
        drawn_a, drawn_b = (self.sample_for_rank(self.random.normal, *style_b.shape).to(real_a) for _ in range(2))
        fake_a = A.decode(content_b, drawn_a)
        # What can wait for one pass through a network does: norms and styles are per sample, see `batched_forward`.
        (content_a, content_back_b), (style_a, style_back_a) = (
            part.chunk(2) for part in A.encode(torch.cat([real_a, fake_a]))
        )
        fake_b, own_b, *back_b = B.decode(
            torch.cat([content_a, content_b] + cycle * [content_back_b]),
            torch.cat([drawn_b, style_b] + cycle * [style_b]),
        ).split(len(real_b))
        content_back_a, style_back_b = B.encode(fake_b)
        own_a, *back_a = A.decode(
            torch.cat([content_a] + cycle * [content_back_a]), torch.cat([style_a] + cycle * [style_a])
        ).split(len(real_a))
        losses = {
            "adversarial_A": weights.adversarial_weight * self.generator_adversarial_loss("D_A", fake_a),
            "adversarial_B": weights.adversarial_weight * self.generator_adversarial_loss("D_B", fake_b),
            "image_a": weights.image_weight * mean_absolute(own_a, real_a),
            "image_b": weights.image_weight * mean_absolute(own_b, real_b),
            "content_a": weights.content_weight * mean_absolute(content_back_a, content_a),
            "content_b": weights.content_weight * mean_absolute(content_back_b, content_b),
            "style_a": weights.style_weight * mean_absolute(style_back_a, drawn_a),
            "style_b": weights.style_weight * mean_absolute(style_back_b, drawn_b),
        }
        if cycle:
            losses["cycle_a"] = weights.cycle_weight * mean_absolute(*back_a, real_a)
            losses["cycle_b"] = weights.cycle_weight * mean_absolute(*back_b, real_b)
        return losses, fake_a, fake_b

    @torch.no_grad()
    def on_step_end(self, is_finite: Tensor) -> None:
        """See `AdversarialEngine.on_step_end`: the mean styles take in those of the step's images, as translation does.

        A style means something only to the decoder it was trained with: where averages are kept, they encode.
        """
        for name, autoencoder in self.best_generators().items():
            style = autoencoder.style_encoder(self._seen[name]).mean(dim=0)
            self.styles[name].update(self.world.reduce_mean(style), is_finite)

    def extra_state(self) -> dict[str, object]:
        """See `AdversarialEngine.extra_state`."""
        return {"random": self.random, **{f"style_{name}": styles for name, styles in self.styles.items()}}

    def transferable_components(self) -> dict[str, object]:
        """See `AdversarialEngine`: the mean styles, which a translation needs, are among them."""
        return {
            **super().transferable_components(),
            **{f"style_{name}": styles for name, styles in self.styles.items()},
        }

    def translators(self) -> dict[str, nn.Module]:
        """See `Engine.translators`: content of the other contrast, and the style of the target."""
        translators = _translators(self.best_generators())
        for name, side in (("A", "a"), ("B", "b")):
            styles = self.styles[name]
            translators[side].set_style(styles.mean if self.method.translate_with == "mean" else styles.random_style)
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
