"""MUNIT: unpaired translation by swapping styles over a shared content (Huang et al. 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from networks.munit import AutoEncoder, StyleTranslator
from pipeline.engines.base import Losses, Networks
from pipeline.engines.losses import mean_absolute
from pipeline.engines.state import Stateful, Styles
from pipeline.engines.unpaired import UnpairedEngine, UnpairedOptions


@dataclass(frozen=True, kw_only=True)
class MunitOptions(UnpairedOptions):
    """Options of MUNIT: the weights of section 3.2, and how a volume gets its style."""

    discriminator_scale: float = 1.0
    adversarial_weight: float = 1.0  # weight of the generators' adversarial loss
    image_weight: float = 10.0  # weight of an image's reconstruction from its own content and style
    content_weight: float = 1.0  # weight of the reconstruction of contents
    style_weight: float = 1.0  # weight of the reconstruction of styles
    cycle_weight: float = 0.0  # weight of the explicit cycle; 0: none
    translate_with: Literal["mean", "random"] = "mean"  # which style translates: training's mean, or a random one


class Munit(UnpairedEngine):
    """An auto-encoder per contrast, A and B, which split an image into content and style, and a discriminator each.

    A translation joins an image's content and a style of the other contrast. In training the style is drawn from
    N(0, 1). A volume has a single style for all slices: by default the running mean of the training images' styles, as
    the networks that translate encode them.
    """

    options: MunitOptions
    draws = True

    def set_up(self) -> None:
        """See `Engine.set_up`: the styles of both contrasts."""
        super().set_up()
        self.styles = {
            name: Styles(self.random.normal(autoencoder.style_dim), self.device)
            for name, autoencoder in zip("AB", _autoencoders(self.generators), strict=True)
        }
        self._real: dict[str, Tensor] = {}

    def generator_losses(self, real_a: Tensor, real_b: Tensor) -> tuple[Losses, Tensor, Tensor]:
        """See `UnpairedEngine`: section 3.2 and, of section 4, style-augmented cycle consistency."""
        self._real = {"A": real_a, "B": real_b}
        (A, B), options = _autoencoders(self.generators), self.options
        cycle = bool(options.cycle_weight)
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
            "adversarial_A": options.adversarial_weight * self.generator_adversarial_loss("D_A", fake_a),
            "adversarial_B": options.adversarial_weight * self.generator_adversarial_loss("D_B", fake_b),
            "image_a": options.image_weight * mean_absolute(reconstructed_a, real_a),
            "image_b": options.image_weight * mean_absolute(reconstructed_b, real_b),
            "content_a": options.content_weight * mean_absolute(recoded_content_a, content_a),
            "content_b": options.content_weight * mean_absolute(recoded_content_b, content_b),
            "style_a": options.style_weight * mean_absolute(recoded_style_a, random_style_a),
            "style_b": options.style_weight * mean_absolute(recoded_style_b, random_style_b),
        }
        if cycle:
            losses["cycle_a"] = options.cycle_weight * mean_absolute(cycled_a[0], real_a)
            losses["cycle_b"] = options.cycle_weight * mean_absolute(cycled_b[0], real_b)
        return losses, fake_a, fake_b

    @torch.no_grad()
    def on_step_end(self, is_finite: Tensor) -> None:
        """See `Engine.on_step_end`: update the mean styles by the styles of the step's images.

        A style suits only the decoder it was trained with, so the averaged networks encode, if there are any.
        """
        super().on_step_end(is_finite)
        for name, autoencoder in zip("AB", _autoencoders(self.evaluated_generators()), strict=True):
            style = autoencoder.style_encoder(self._real[name]).mean(dim=0)
            self.styles[name].update(self.world.reduce_mean(style), is_finite)

    def extra_state(self) -> dict[str, Stateful]:
        return {**super().extra_state(), **self._named_styles()}

    def transferable_components(self) -> dict[str, Stateful]:
        """See `Engine`: the mean styles, which a translation needs, are among them."""
        return {**super().transferable_components(), **self._named_styles()}

    def _named_styles(self) -> dict[str, Styles]:
        return {f"style_{name}": styles for name, styles in self.styles.items()}

    def translators(self) -> dict[str, nn.Module]:
        """See `Engine.translators`: content of the other contrast, and the style of the target."""
        translators = super().translators()
        for side, translator in translators.items():
            styles = self.styles[side.upper()]
            assert isinstance(translator, StyleTranslator)
            translator.set_style(styles.mean if self.options.translate_with == "mean" else styles.random_style)
        return translators

    def load_translator(self, side: str, state: Mapping[str, Any]) -> None:
        """See `Engine.load_translator`: the mean style goes with it; a random one never changes."""
        super().load_translator(side, state)
        style, styles = state["style"][0].to(self.device), self.styles[side.upper()]
        if not torch.equal(style, styles.random_style.to(style)):
            styles.mean.copy_(style)

    @staticmethod
    def translators_of(generators: Networks) -> dict[str, nn.Module]:
        A, B = _autoencoders(generators)
        device = next(A.parameters()).device
        pairs = {"a": (B.content_encoder, A), "b": (A.content_encoder, B)}
        return {side: StyleTranslator(content, target).to(device) for side, (content, target) in pairs.items()}


def _autoencoders(generators: Networks | nn.ModuleDict) -> tuple[AutoEncoder, AutoEncoder]:
    A, B = generators["A"], generators["B"]
    assert isinstance(A, AutoEncoder) and isinstance(B, AutoEncoder)
    return A, B


ENGINE, OPTIONS = Munit, MunitOptions
