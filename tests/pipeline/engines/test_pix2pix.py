import typing
from importlib import import_module

import pytest
import torch
from small_engine import Plain, adversarial_loss, assert_equal_steps, batch, engine_of

from pipeline.config.methods import PAIRED, AnyMethod
from pipeline.engines.losses import structural_dissimilarity


class PlainPix2Pix(Plain):
    """The step of Isola et al. 2017 written out, in each direction by itself."""

    def __init__(self, engine, adversarial, l1_weight, ssim_weight, adversarial_weight, scale, **keys):
        super().__init__(engine, **keys)
        self.adversarial, self.scale = adversarial, scale
        self.l1_weight, self.ssim_weight, self.adversarial_weight = l1_weight, ssim_weight, adversarial_weight

    def gan(self, logits, real):
        return adversarial_loss(self.adversarial, logits, real)

    def step(self, a, b):
        losses = {}
        for name, side, source, target in (("G", "B", a, b), ("F", "A", b, a)):
            generator, discriminator = self.networks[name], self.networks.get(f"D_{side}")
            fake = generator(source)
            losses[f"l1_{name}"] = self.l1_weight * (fake - target).abs().mean()
            distance = losses[f"l1_{name}"]
            if self.ssim_weight:
                losses[f"ssim_{name}"] = self.ssim_weight * structural_dissimilarity(fake, target)
                distance = distance + losses[f"ssim_{name}"]
            if discriminator is None:
                self.update(distance, name)
                continue
            before = fake.detach()
            generator_logits = self.gan(discriminator(torch.cat([source, fake], dim=1)), True)
            losses[f"adversarial_{name}"] = self.adversarial_weight * generator_logits
            self.update(distance + losses[f"adversarial_{name}"], name)
            real_pair, fake_pair = torch.cat([source, target], dim=1), torch.cat([source, before], dim=1)
            losses[f"discriminator_{side}"] = self.scale * (
                self.gan(discriminator(real_pair), True) + self.gan(discriminator(fake_pair), False)
            )
            self.update(losses[f"discriminator_{side}"], f"D_{side}")
        return losses


@pytest.mark.parametrize("adversarial", ["bce", "least_squares"])
@pytest.mark.parametrize(("adversarial_weight", "ssim_weight"), [(1.5, 0.0), (1.5, 20.0), (0.0, 0.0)])
def test_losses_and_weights_are_those_of_the_paper_written_out(adversarial, adversarial_weight, ssim_weight):
    weights = {"l1_weight": 30.0, "ssim_weight": ssim_weight, "adversarial_weight": adversarial_weight}
    engine = engine_of(
        type="pix2pix", dtype=torch.float64, adversarial=adversarial, discriminator_scale=0.4, learning_rate=1e-3,
        discriminator_learning_rate=3e-3, **weights,
    )  # fmt: skip
    assert_equal_steps(engine, PlainPix2Pix(engine, adversarial, scale=0.4, rates=(1e-3, 3e-3), **weights), 3)


def test_without_adversarial_weight_there_are_no_discriminators_to_train_or_keep():
    engine = engine_of(type="pix2pix", adversarial_weight=0.0)
    assert set(engine.networks()) == {"G", "F"}
    assert list(engine.optimisers) == list(engine.set_learning_rate(0.5)) == ["generators"]
    assert set(engine.losses(*batch(0))) == {"generators"}
    assert set(engine.step(*batch(0))) == {"l1_G", "l1_F"}
    with_them = engine_of(type="pix2pix")
    start = engine_of(type="pix2pix", adversarial_weight=0.0).state_dict()["G"]
    assert all(torch.equal(weight, start[name]) for name, weight in with_them.state_dict()["G"].items())


def test_the_methods_that_want_pairs_are_those_that_the_configuration_knows():
    kinds = [typing.get_args(kind.model_fields["type"].annotation)[0] for kind in typing.get_args(AnyMethod)]
    paired = [kind for kind in kinds if import_module(f"pipeline.engines.{kind}").ENGINE.paired]
    assert tuple(paired) == PAIRED
