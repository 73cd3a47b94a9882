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
    """An auto-encoder per contrast, A and B, which split an image into content and style, and a discriminator each.

    A translation joins an image's content and a style of the other contrast. In training the style is drawn from
    N(0, 1). A volume has a single style for all slices: by default the running mean of the training images' styles, as
    the networks that translate encode them.
    """

    def __init__(self, config: Config, device: torch.device):
        super().__init__(config, device, {name: build_generator(config) for name in ("A", "B")})
        self.random = RandomState(config.seed, device)
        self.styles = {name: Styles(self.random.normal(config.generator.style_size), device) for name in ("A", "B")}
        self._real: dict[str, Tensor] = {}

    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """See `AdversarialEngine.losses`: section 3.2 and, of section 4, style-augmented cycle consistency."""
        self._real = {"A": real_a, "B": real_b}
        generator_losses, fake_a, fake_b = self._generator_losses(real_a, real_b)
        return {
            GENERATORS: generator_losses,
            DISCRIMINATORS: {
                "discriminator_A": self.discriminator_loss("D_A", real_a, fake_a),
                "discriminator_B": self.discriminator_loss("D_B", real_b, fake_b),
            },
        }

    def _generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[Losses, Tensor, Tensor]:
        A, B, method = self.generators["A"], self.generators["B"], self.method
        cycle = bool(method.cycle_weight)
        content_b, style_b = B.encode(real_b)
        random_style_a, random_style_b = (
            self.sample_for_rank(self.random.normal, *style_b.shape).to(real_a) for _ in range(2)
        )
        fake_a = A.decode(content_b, random_style_a)
        # Inputs of one network share a pass: norms and styles are per sample, see `batched_forward`.
        (content_a, recoded_content_b), (style_a, recoded_style_a) = (
            code.chunk(2) for code in A.encode(torch.cat([real_a, fake_a]))
        )
        fake_b, reconstructed_b, *cycled_b = B.decode(
            torch.cat([content_a, content_b] + cycle * [recoded_content_b]),
            torch.cat([random_style_b, style_b] + cycle * [style_b]),
        ).split(len(real_b))
        recoded_content_a, recoded_style_b = B.encode(fake_b)
        reconstructed_a, *cycled_a = A.decode(
            torch.cat([content_a] + cycle * [recoded_content_a]), torch.cat([style_a] + cycle * [style_a])
        ).split(len(real_a))
        losses = {
            "adversarial_A": method.adversarial_weight * self.generator_adversarial_loss("D_A", fake_a),
            "adversarial_B": method.adversarial_weight * self.generator_adversarial_loss("D_B", fake_b),
            "image_a": method.image_weight * mean_absolute(reconstructed_a, real_a),
            "image_b": method.image_weight * mean_absolute(reconstructed_b, real_b),
            "content_a": method.content_weight * mean_absolute(recoded_content_a, content_a),
            "content_b": method.content_weight * mean_absolute(recoded_content_b, content_b),
            "style_a": method.style_weight * mean_absolute(recoded_style_a, random_style_a),
            "style_b": method.style_weight * mean_absolute(recoded_style_b, random_style_b),
        }
        if cycle:
            losses["cycle_a"] = method.cycle_weight * mean_absolute(*cycled_a, real_a)
            losses["cycle_b"] = method.cycle_weight * mean_absolute(*cycled_b, real_b)
        return losses, fake_a, fake_b

    @torch.no_grad()
    def on_step_end(self, is_finite: Tensor) -> None:
        """See `AdversarialEngine.on_step_end`: update the mean styles by the styles of the step's images.

        A style suits only the decoder it was trained with, so the averaged networks encode, if there are any.
        """
        for name, autoencoder in self.best_generators().items():
            style = autoencoder.style_encoder(self._real[name]).mean(dim=0)
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
