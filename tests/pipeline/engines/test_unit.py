import copy

import pytest
import torch
from small_engine import UNIT, Plain, assert_equal_steps, batch, config_of, differences, engine_of

from pipeline.engines.builders import build_translators

WEIGHTS = {
    "adversarial_weight": 1.3, "image_weight": 9.0, "kl_weight": 0.7, "cycle_weight": 8.0, "cycle_kl_weight": 0.3
}  # fmt: skip


class PlainUnit(Plain):
    """The step of Liu et al. 2017 written out, one optimiser for both auto-encoders as they share blocks."""

    def __init__(self, engine, **keys):
        super().__init__(engine, **keys)
        self.networks |= copy.deepcopy(dict(engine.generators.items()))  # at once, so that the copies share, too
        weights = {id(weight): weight for name in "AB" for weight in self.networks[name].parameters()}
        self.optimisers["both"] = torch.optim.Adam(weights.values(), 1e-3, (0.5, 0.999), fused=False)
        self.random = torch.Generator().manual_seed(9)

    def noise(self, mean):
        return torch.randn(mean.shape, generator=self.random).double()

    def step(self, a, b):
        A, B, D_A, D_B = (self.networks[name] for name in ("A", "B", "D_A", "D_B"))
        mean_a, mean_b = A.encoder(a), B.encoder(b)
        z_a = mean_a + self.noise(mean_a)
        z_b = mean_b + self.noise(mean_b)
        a_from_b, b_from_a = A.decoder(z_b), B.decoder(z_a)
        mean_aba, mean_bab = B.encoder(b_from_a), A.encoder(a_from_b)
        aba = A.decoder(mean_aba + self.noise(mean_aba))
        bab = B.decoder(mean_bab + self.noise(mean_bab))

        def distance(prediction, target):
            return (prediction - target).abs().mean()

        def divergence(mean):
            posterior = torch.distributions.Normal(mean, torch.ones_like(mean))
            prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
            return torch.distributions.kl_divergence(posterior, prior).mean()

        losses = {
            "adversarial_A": ((D_A(a_from_b) - 1) ** 2).mean(),
            "adversarial_B": ((D_B(b_from_a) - 1) ** 2).mean(),
            "image_a": distance(A.decoder(z_a), a),
            "image_b": distance(B.decoder(z_b), b),
            "kl_a": divergence(mean_a),
            "kl_b": divergence(mean_b),
            "cycle_a": distance(aba, a),
            "cycle_b": distance(bab, b),
            "cycle_kl_a": divergence(mean_aba),
            "cycle_kl_b": divergence(mean_bab),
        }
        losses = {name: WEIGHTS[f"{name.rpartition('_')[0]}_weight"] * loss for name, loss in losses.items()}
        self.update(sum(losses.values()), "both")
        for side, real, fake in (("A", a, a_from_b.detach()), ("B", b, b_from_a.detach())):
            discriminator = self.networks[f"D_{side}"]
            losses[f"discriminator_{side}"] = ((discriminator(real) - 1) ** 2).mean() + (
                discriminator(fake) ** 2
            ).mean()
            self.update(losses[f"discriminator_{side}"], f"D_{side}")
        return losses


@pytest.mark.parametrize("shared_blocks", [0, 1, 2])
def test_losses_and_weights_are_those_of_the_paper_written_out(shared_blocks):
    generator = UNIT["generator"] | {"shared_blocks": shared_blocks}
    discriminator = {"type": "patchgan", "width": 2, "layers": 1}
    options = UNIT | WEIGHTS | {"generator": generator, "discriminator": discriminator}
    engine = engine_of(**options, dtype=torch.float64, seed=9, learning_rate=1e-3, discriminator_scale=1.0)
    assert_equal_steps(engine, PlainUnit(engine), 3)


def unit(**options):
    return engine_of(**UNIT, **options)


def block_of(networks, side, half, index):
    return getattr(networks[side], half)[index].state_dict()


# ── blocks in common ────────────────────────────────────────────────────────────────────────────────────────


def shares(networks):
    return [
        not differences(block_of(networks, "A", half, index), block_of(networks, "B", half, index))
        for half, index in (("encoder", -1), ("decoder", 0), ("encoder", -2), ("decoder", 1))
    ]


def test_training_keeps_the_shared_blocks_one_and_the_rest_two():
    engine = unit(ema_decay=0.9, learning_rate=1e-2)
    before = copy.deepcopy(engine.generators.state_dict())
    for index in range(3):
        engine.step(*batch(index))
    assert differences(before, engine.generators.state_dict()) == {f"/{name}" for name in before}
    for networks in (engine.generators, engine.evaluated_generators()):
        assert shares(networks) == [True, True, False, False]
        assert networks["A"].encoder[-1] is networks["B"].encoder[-1]


def test_a_shared_weight_enters_the_optimiser_and_the_average_once():
    engine = unit(ema_decay=0.9)
    for weights in (engine.optimisers["generators"].param_groups[0]["params"], engine.ema.networks.parameters()):
        identities = [id(weight) for weight in weights]
        assert len(identities) == len(set(identities)) == len(list(engine.generators.parameters()))


def test_translators_of_a_checkpoint_may_be_of_different_steps_though_they_share_blocks_in_training():
    engine, image = engine_of(**UNIT), batch(9)[0]
    loaded, expected = build_translators(config_of(**UNIT)), {}
    for side, contrast in (("a", "T1"), ("b", "T2")):
        engine.step(*batch(0))
        translator = engine.translators()[side]
        loaded[contrast].load_state_dict(copy.deepcopy(translator.state_dict()))
        with torch.no_grad():
            expected[contrast] = translator(image)
    with torch.no_grad():
        assert all(torch.equal(loaded[contrast](image), expected[contrast]) for contrast in expected)
