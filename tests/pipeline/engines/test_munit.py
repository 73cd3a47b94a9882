import pytest
import torch
from small_engine import MUNIT, Plain, assert_equal_steps, batch, engine_of


class PlainMunit(Plain):
    """The step of Huang et al. 2018 written out, each image encoded and decoded by itself."""

    def __init__(self, engine, weights, **keys):
        super().__init__(engine, **keys)
        self.weights, self.random = weights, torch.Generator().manual_seed(9)
        torch.randn(3, generator=self.random), torch.randn(3, generator=self.random)  # the styles drawn for good

    def step(self, a, b):
        A, B, D_A, D_B = (self.networks[name] for name in ("A", "B", "D_A", "D_B"))
        drawn_a, drawn_b = (torch.randn(len(a), 3, generator=self.random).double() for _ in range(2))
        content_a, style_a = A.content_encoder(a), A.style_encoder(a)
        content_b, style_b = B.content_encoder(b), B.style_encoder(b)
        b_from_a, a_from_b = B.decoder(content_a, drawn_b), A.decoder(content_b, drawn_a)

        def distance(prediction, target):
            return (prediction - target).abs().mean()

        losses = {
            "adversarial_A": sum(((logits - 1) ** 2).mean() for logits in D_A(a_from_b)),
            "adversarial_B": sum(((logits - 1) ** 2).mean() for logits in D_B(b_from_a)),
            "image_a": distance(A.decoder(content_a, style_a), a),
            "image_b": distance(B.decoder(content_b, style_b), b),
            "content_a": distance(B.content_encoder(b_from_a), content_a),
            "content_b": distance(A.content_encoder(a_from_b), content_b),
            "style_a": distance(A.style_encoder(a_from_b), drawn_a),
            "style_b": distance(B.style_encoder(b_from_a), drawn_b),
            "cycle_a": distance(A.decoder(B.content_encoder(b_from_a), style_a), a),
            "cycle_b": distance(B.decoder(A.content_encoder(a_from_b), style_b), b),
        }
        arguments = {name: self.weights[f"{name.split('_')[0]}_weight"] for name in losses}
        losses = {
            name: arguments[name] * loss
            for name, loss in losses.items()
            if arguments[name] or not name.startswith("cycle")
        }
        self.update(sum(losses.values()), "A", "B")
        for side, real, fake in (("A", a, a_from_b.detach()), ("B", b, b_from_a.detach())):
            discriminator = self.networks[f"D_{side}"]
            real_loss = sum(((logits - 1) ** 2).mean() for logits in discriminator(real))
            losses[f"discriminator_{side}"] = real_loss + sum((logits**2).mean() for logits in discriminator(fake))
            self.update(losses[f"discriminator_{side}"], f"D_{side}")
        return losses


@pytest.mark.parametrize("cycle_weight", [0.0, 3.0])
def test_losses_and_weights_are_those_of_the_paper_written_out(cycle_weight):
    weights = {"adversarial_weight": 1.3, "image_weight": 9.0, "content_weight": 0.7, "style_weight": 1.1}
    weights["cycle_weight"] = cycle_weight
    engine = engine_of(
        **MUNIT, **weights, dtype=torch.float64, seed=9, learning_rate=1e-3, discriminator_scale=1.0, weight_decay=0.01
    )

    def optimiser(parameters, rate):
        return torch.optim.Adam(parameters, rate, (0.5, 0.999), weight_decay=0.01, fused=False)

    assert_equal_steps(engine, PlainMunit(engine, weights, rates=(1e-3, 2e-4), optimiser=optimiser), 3)


def munit(**options):
    return engine_of(**MUNIT, **options)


def styles_of(engine):
    return {side: translator.style[0] for side, translator in engine.translators().items()}


# ── the style of translation ────────────────────────────────────────────────────────────────────────────────


def test_a_translator_joins_the_sources_content_and_the_targets_mean_style():
    engine = munit()
    for index in range(3):
        engine.step(*batch(index))
    image = batch(9)[0]
    A, B = engine.networks()["A"], engine.networks()["B"]
    for side, source, target in (("b", A, B), ("a", B, A)):
        style = engine.styles[side.upper()].mean
        expected = target.decode(source.encode(image)[0], style[None])
        torch.testing.assert_close(engine.translators()[side](image), expected)
        assert style.abs().sum() > 0


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_mean_style_is_of_what_the_networks_that_translate_make_of_the_images(ema_decay):
    engine = munit(ema_decay=ema_decay, learning_rate=1e-2)
    mean = {"A": torch.zeros(3), "B": torch.zeros(3)}
    for step in range(1, 5):
        real = dict(zip("AB", batch(step), strict=True))
        engine.step(*real.values())
        for name, network in engine.evaluated_generators().items():
            share = 1 if step == 1 else 1 - (1 + step) / (10 + step)
            mean[name] += share * (network.encode(real[name])[1].detach().mean(dim=0) - mean[name])
            torch.testing.assert_close(engine.styles[name].mean, mean[name])
    torch.testing.assert_close(styles_of(engine)["a"], mean["A"])
    torch.testing.assert_close(styles_of(engine)["b"], mean["B"])
    assert not torch.allclose(mean["A"], mean["B"])


def test_a_style_drawn_at_random_is_the_seeds_and_stays():
    first, second, other = (munit(translate_with="random", seed=seed) for seed in (1, 1, 2))
    before = styles_of(first)
    first.step(*batch(0))
    assert all(torch.equal(before[side], styles_of(first)[side]) for side in "ab")
    assert torch.equal(before["a"], styles_of(second)["a"]) and not torch.equal(before["a"], styles_of(other)["a"])
    assert not torch.equal(before["a"], before["b"])
    other.load_state_dict(first.state_dict())
    assert torch.equal(styles_of(other)["a"], before["a"])  # it belongs to the run, not to the configuration read last
