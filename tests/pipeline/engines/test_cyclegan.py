import copy

import pytest
import torch
from small_engine import batch, differences, engine_of
from torch import nn

NETWORKS = ("G", "F", "D_A", "D_B")


# ── against a plain writing of the paper ────────────────────────────────────────────────────────────────────


class PlainCycleGan:
    """The step of Zhu et al. 2017 written out: one pass per term, generators first, an optimiser per network."""

    def __init__(self, engine, *, adversarial, cycle_weight, identity_share, discriminator_scale, rates, beta1):
        self.networks = {name: copy.deepcopy(network) for name, network in engine.networks().items()}
        self.adversarial, self.cycle_weight = adversarial, cycle_weight
        self.identity_weight, self.scale = identity_share * cycle_weight, discriminator_scale
        self.optimisers = {
            name: torch.optim.Adam(
                network.parameters(), lr=rates["D" in name], betas=(beta1, 0.999), foreach=False, fused=False
            )
            for name, network in self.networks.items()
        }

    def gan(self, logits, real):
        target = torch.ones_like(logits) if real else torch.zeros_like(logits)
        if self.adversarial == "bce":
            return nn.functional.binary_cross_entropy_with_logits(logits, target)
        return ((logits - target) ** 2).mean()

    def step(self, a, b):
        G, F, D_A, D_B = (self.networks[name] for name in NETWORKS)
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
        losses = {
            "adversarial_G": self.gan(D_B(G(a)), True),
            "adversarial_F": self.gan(D_A(F(b)), True),
            "cycle_a": self.cycle_weight * (F(G(a)) - a).abs().mean(),
            "cycle_b": self.cycle_weight * (G(F(b)) - b).abs().mean(),
        }
        if self.identity_weight:
            losses["identity_a"] = self.identity_weight * (F(a) - a).abs().mean()
            losses["identity_b"] = self.identity_weight * (G(b) - b).abs().mean()
        fake_a, fake_b = F(b).detach(), G(a).detach()
        sum(losses.values()).backward()
        self.optimisers["G"].step()
        self.optimisers["F"].step()
        self.optimisers["D_A"].zero_grad()
        self.optimisers["D_B"].zero_grad()
        losses["discriminator_A"] = self.scale * (self.gan(D_A(a), True) + self.gan(D_A(fake_a), False))
        losses["discriminator_B"] = self.scale * (self.gan(D_B(b), True) + self.gan(D_B(fake_b), False))
        losses["discriminator_A"].backward()
        losses["discriminator_B"].backward()
        self.optimisers["D_A"].step()
        self.optimisers["D_B"].step()
        return {name: loss.detach() for name, loss in losses.items()}


@pytest.mark.parametrize("adversarial", ["bce", "least_squares"])
@pytest.mark.parametrize("identity_share", [0.5, 0.0])
def test_losses_gradients_and_weights_are_those_of_the_paper_written_out(adversarial, identity_share):
    recipe = {"cycle_weight": 7.0, "identity_share": identity_share, "discriminator_scale": 0.4, "beta1": 0.6}
    engine = engine_of(
        dtype=torch.float64, adversarial=adversarial, learning_rate=1e-3, discriminator_learning_rate=3e-3, **recipe
    )
    plain = PlainCycleGan(engine, adversarial=adversarial, rates=(1e-3, 3e-3), **recipe)
    for index in range(3):
        real = batch(index, dtype=torch.float64)
        losses, expected = engine.step(*real), plain.step(*real)
        assert losses.keys() == expected.keys()
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[name], rtol=0, atol=1e-10, msg=f"{name} in step {index}")
        for name, network in engine.networks().items():
            for (key, weight), other in zip(network.named_parameters(), plain.networks[name].parameters(), strict=True):
                where = f"{name}.{key} in step {index}"
                torch.testing.assert_close(weight.grad, other.grad, rtol=0, atol=1e-10, msg=f"gradient of {where}")
                torch.testing.assert_close(weight, other, rtol=0, atol=1e-10, msg=where)


def test_a_generators_passes_are_one_and_identity_is_left_out_where_it_weighs_nothing():
    def slices_seen(**options):
        engine = engine_of(**options)
        batch_sizes = []
        engine.G.register_forward_hook(lambda module, inputs, output: batch_sizes.append(len(inputs[0])))
        losses = engine.step(*batch(0))
        return batch_sizes, {name for name in losses if "identity" in name}

    assert slices_seen(identity_share=0.5) == ([6], {"identity_a", "identity_b"})
    assert slices_seen(identity_share=0.0) == ([4], set())
    assert slices_seen(cycle_weight=0.0) == ([4], set())


def test_the_discriminators_are_shown_what_the_pools_return():
    engine = engine_of(pool_size=3)
    shown = []
    engine.D_A.register_forward_hook(lambda module, inputs, output: shown.append(inputs[0].detach().clone()))
    earlier = []
    for index in range(12):
        real_a, real_b = batch(index, count=1)
        with torch.no_grad():
            fake = engine.F(real_b)
        engine.step(real_a, real_b)
        for_generator, (real, for_discriminator) = shown[-2], shown[-1].split(1)
        torch.testing.assert_close(for_generator, fake)
        assert torch.equal(real, real_a)
        old = not torch.allclose(for_discriminator, fake)
        assert not old or any(torch.equal(for_discriminator, image) for image in earlier)
        earlier.append(for_generator)
        if index == 2:
            assert torch.equal(engine.pool_a.images, torch.cat(earlier))
    assert len(engine.pool_a.images) == len(engine.pool_b.images) == 3


def test_losses_are_plain_numbers_without_a_graph():
    losses = engine_of().step(*batch(0))
    assert list(losses) == [
        "adversarial_G", "adversarial_F", "cycle_a", "cycle_b", "identity_a", "identity_b",
        "discriminator_A", "discriminator_B",
    ]  # fmt: skip
    assert all(loss.shape == () and not loss.requires_grad for loss in losses.values())


def test_training_brings_the_cycle_closer():
    engine = engine_of(learning_rate=2e-3, identity_share=0.0)
    losses = [engine.step(*batch(0)) for _ in range(60)]
    assert losses[-1]["cycle_a"] + losses[-1]["cycle_b"] < 0.8 * (losses[0]["cycle_a"] + losses[0]["cycle_b"])


# ── steps that are skipped ──────────────────────────────────────────────────────────────────────────────────


def test_a_discriminator_that_has_overflowed_keeps_the_generators_where_they_are():
    engine = engine_of()
    with torch.no_grad():
        engine.D_B.network.final_conv.conv.bias.fill_(1e30)  # its square is infinite
    before = copy.deepcopy(engine.state_dict())
    losses = engine.step(*batch(0))
    assert torch.isfinite(losses["cycle_a"])
    assert not torch.isfinite(losses["discriminator_B"])
    assert not differences(before, engine.state_dict())


# ── averages ────────────────────────────────────────────────────────────────────────────────────────────────


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
                engine.best_generators()["G"].state_dict()[name], mean[name], rtol=1e-5, atol=1e-7
            )
    assert decays[:2] == [2 / 11, 3 / 12]  # the warm-up
    assert decays[6:9] == [8 / 17, 0.5, 0.5]  # and its end
    assert not torch.equal(mean["last.weight"], engine.G.last.weight)


def test_translators_are_the_averages_where_they_are_kept():
    engine = engine_of(depth=6, width=1, dropout=0.5, ema_decay=0.9, learning_rate=1e-2)
    for index in range(3):
        engine.step(*batch(index, size=64))
    translators = engine.translators()
    assert translators["b"] is engine.best_generators()["G"]
    assert translators["a"] is engine.best_generators()["F"]
    image = batch(9, size=64)[0]
    with torch.no_grad():
        assert torch.equal(translators["b"](image), translators["b"](image))  # in evaluation mode: no dropout
        assert not torch.allclose(translators["b"](image), engine.G.eval()(image))


def test_without_averages_the_translators_are_the_generators():
    engine = engine_of()
    assert engine.translators() == {"a": engine.F, "b": engine.G}
    assert engine.ema is None
    assert "averaged" not in engine.state_dict()


def test_each_average_belongs_to_its_generator():
    engine = engine_of(ema_decay=0.5, learning_rate=1e-2)
    for index in range(8):
        engine.step(*batch(index))

    def distance(network, other):
        pairs = zip(network.parameters(), other.parameters(), strict=True)
        return sum((value - two).square().sum().item() for value, two in pairs)

    translators = engine.translators()
    assert distance(translators["b"], engine.G) < 0.1 * distance(translators["b"], engine.F)
    assert distance(translators["a"], engine.F) < 0.1 * distance(translators["a"], engine.G)


# ── learning rates ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_learning_rate_is_a_factor_of_the_configured_one():
    engine = engine_of(learning_rate=1e-3, discriminator_learning_rate=4e-3)
    for factor in (0.5, 0.25, 1.0):  # of the configured rate, not of the last one
        engine.set_learning_rate(factor)
        rates = {name: [group["lr"] for group in value.param_groups] for name, value in engine.optimisers.items()}
        assert rates == {"generators": [1e-3 * factor], "discriminators": [4e-3 * factor]}


def test_a_rate_of_nothing_moves_nothing():
    engine = engine_of()
    engine.set_learning_rate(0.0)
    before = copy.deepcopy({name: network.state_dict() for name, network in engine.networks().items()})
    engine.step(*batch(0))
    assert not differences(before, {name: network.state_dict() for name, network in engine.networks().items()})


# ── precision ───────────────────────────────────────────────────────────────────────────────────────────────


def test_bf16_computes_in_half_precision_and_stays_near_float32():
    engines = {name: engine_of(width=8, precision=name, pool_size=2) for name in ("float32", "bf16")}
    kinds, images = [], []
    engines["bf16"].G.up[-1].register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    engines["bf16"].G.register_forward_hook(lambda module, inputs, output: images.append(output.dtype))
    for index in range(5):
        losses = {name: engine.step(*batch(index)) for name, engine in engines.items()}
        for name, loss in losses["bf16"].items():
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, losses["float32"][name], rtol=0.05, atol=0.01, msg=name)
    assert set(kinds) == {torch.bfloat16} and set(images) == {torch.float32}
    start = engine_of(width=8)
    for name in NETWORKS:
        assert all(weight.dtype == torch.float32 for weight in engines["bf16"].networks()[name].parameters())
        half, single = (flat(engine, name) - flat(start, name) for engine in (engines["bf16"], engines["float32"]))
        assert torch.nn.functional.cosine_similarity(half, single, dim=0) > 0.9


def flat(engine, name):
    """The weights of a network as one line."""
    return torch.cat([weight.detach().ravel() for weight in engine.networks()[name].parameters()])
