import copy
from functools import partial

import pytest
import torch
from small_engine import Plain, adversarial_loss, assert_equal_steps, batch, differences, engine_of, saved, train

NETWORKS = ("G", "F", "D_A", "D_B")


class PlainCycleGan(Plain):
    """The step of Zhu et al. 2017 written out: one pass per term, generators first, an optimiser per network."""

    def __init__(self, engine, adversarial, cycle_weight, identity_share, discriminator_scale, **keys):
        super().__init__(engine, **keys)
        self.adversarial, self.cycle_weight = adversarial, cycle_weight
        self.identity_weight, self.scale = identity_share * cycle_weight, discriminator_scale

    def step(self, a, b):
        G, F, D_A, D_B = (self.networks[name] for name in NETWORKS)
        losses = {
            "adversarial_G": adversarial_loss(self.adversarial, D_B(G(a)), True),
            "adversarial_F": adversarial_loss(self.adversarial, D_A(F(b)), True),
            "cycle_a": self.cycle_weight * (F(G(a)) - a).abs().mean(),
            "cycle_b": self.cycle_weight * (G(F(b)) - b).abs().mean(),
        }
        if self.identity_weight:
            losses["identity_a"] = self.identity_weight * (F(a) - a).abs().mean()
            losses["identity_b"] = self.identity_weight * (G(b) - b).abs().mean()
        fakes = {"A": F(b).detach(), "B": G(a).detach()}
        self.update(sum(losses.values()), "G", "F")
        for side, real, discriminator in (("A", a, D_A), ("B", b, D_B)):
            on_real = adversarial_loss(self.adversarial, discriminator(real), True)
            on_fake = adversarial_loss(self.adversarial, discriminator(fakes[side]), False)
            losses[f"discriminator_{side}"] = self.scale * (on_real + on_fake)
            self.update(losses[f"discriminator_{side}"], f"D_{side}")
        return losses


@pytest.mark.parametrize("adversarial", ["bce", "least_squares"])
@pytest.mark.parametrize("identity_share", [0.5, 0.0])
def test_losses_and_weights_are_those_of_the_paper_written_out(adversarial, identity_share):
    weights = {"cycle_weight": 7.0, "identity_share": identity_share, "discriminator_scale": 0.4}
    engine = engine_of(
        dtype=torch.float64, adversarial=adversarial, learning_rate=1e-3, discriminator_learning_rate=3e-3, beta1=0.6,
        **weights,
    )  # fmt: skip

    def optimiser(parameters, rate):
        return torch.optim.Adam(parameters, rate, (0.6, 0.999), fused=False)

    plain = PlainCycleGan(engine, adversarial, rates=(1e-3, 3e-3), optimiser=optimiser, **weights)
    assert_equal_steps(engine, plain, 3)


def test_pairs_add_their_weighted_distance_in_both_directions_and_nothing_else():
    engine, plain = (engine_of(paired_weight=3.0, pool_size=3) for _ in range(2))
    pair_a, pair_b = batch(9)
    with torch.no_grad():
        expected = {
            "paired_G": 3 * (engine.G(pair_a) - pair_b).abs().mean(),
            "paired_F": 3 * (engine.F(pair_b) - pair_a).abs().mean(),
        }
    losses, without = engine.step(*batch(0), pair_a, pair_b), plain.step(*batch(0))
    assert losses.keys() == {*without, *expected}
    assert all(losses[name] == value for name, value in without.items())
    assert all(losses[name].item() == pytest.approx(value.item()) for name, value in expected.items())
    changed = differences(engine.state_dict(), plain.state_dict())
    assert changed and all(name.startswith(("/G/", "/F/", "/optimiser_generators/")) for name in changed)
    assert differences(engine.state_dict(), engine_of(paired_weight=3.0, pool_size=3).state_dict())


def test_a_generators_passes_are_one_and_identity_is_left_out_where_it_weighs_nothing():
    def slices_seen(**options):
        engine = engine_of(**options)
        batch_sizes = []
        engine.G.register_forward_hook(lambda module, inputs, output: batch_sizes.append(len(inputs[0])))
        losses = engine.step(*batch(0))
        return batch_sizes, {name for name in losses if "identity" in name}

    assert slices_seen(identity_share=0.5) == ([6], {"identity_a", "identity_b"})
    assert slices_seen(identity_share=0.0) == ([4], set())
    assert slices_seen(cycle_weight=0.0) == ([2], set())  # nor is a cycle


def test_each_discriminator_is_shown_the_batch_and_what_its_pool_returns(monkeypatch):
    engine, shown, levels = engine_of(pool_size=3), {}, {"D_A": 0.1, "D_B": 0.2}
    for name, level in levels.items():
        monkeypatch.setattr(
            engine.pools[f"pool_{name[-1].lower()}"], "query", partial(torch.full_like, fill_value=level)
        )
        engine.networks()[name].register_forward_hook(
            lambda module, inputs, output, name=name: shown.update({name: inputs[0].detach()})
        )
    real = batch(0)
    engine.step(*real)
    for (name, level), image in zip(levels.items(), real, strict=True):
        assert torch.equal(shown[name], torch.cat([image, torch.full_like(image, level)]))


def test_a_discriminator_that_has_overflowed_keeps_the_generators_where_they_are():
    engine = engine_of()
    with torch.no_grad():
        engine.D_B.network.final_conv.conv.bias.fill_(1e30)  # its square is infinite
    before = copy.deepcopy(engine.state_dict())
    losses = engine.step(*batch(0))
    assert torch.isfinite(losses["cycle_a"])
    assert not torch.isfinite(losses["discriminator_B"])
    assert not differences(before, engine.state_dict())


def test_the_average_follows_the_weights_as_by_hand():
    engine = engine_of(ema_decay=0.5, learning_rate=1e-2)
    mean = {name: weight.clone() for name, weight in engine.G.state_dict().items()}
    decays = []
    for step in range(1, 13):
        engine.step(*batch(step))
        decays.append(min(0.5, (1 + step) / (10 + step)))
        for name, weight in engine.G.state_dict().items():
            mean[name] = decays[-1] * mean[name] + (1 - decays[-1]) * weight
            torch.testing.assert_close(
                engine.evaluated_generators()["G"].state_dict()[name], mean[name], rtol=1e-5, atol=1e-7
            )
    assert decays[:2] == [2 / 11, 3 / 12]  # the warm-up
    assert decays[6:9] == [8 / 17, 0.5, 0.5]  # and its end
    assert not torch.equal(mean["last.weight"], engine.G.last.weight)


def test_the_order_in_which_a_method_names_its_players_makes_no_difference(monkeypatch):
    usual, turned = engine_of(), engine_of()
    losses = type(turned).losses
    monkeypatch.setattr(turned, "losses", lambda *real: dict(reversed(losses(turned, *real).items())))
    for engine in (usual, turned):
        train(engine, range(2))
    assert differences(saved(usual), saved(turned)) == set()
