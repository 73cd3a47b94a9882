import copy

import pytest
import torch
from small_engine import Plain, Score, adversarial_loss, assert_equal_steps, batch, differences, engine_of
from torch import nn

from networks.cpu_kernels import twice_differentiable

CRITIC = {"type": "dualgan", "adversarial": "wasserstein"}
CLIPPED = {**CRITIC, "clip": 0.01}
PENALISED = {**CRITIC, "gradient_penalty": 10.0}


# ── against a plain writing of the paper ────────────────────────────────────────────────────────────────────


class PlainDualGan(Plain):
    """The step of Yi et al. 2017 written out, critics and generators from the same weights; no dropout."""

    def __init__(self, engine, options, **keys):
        super().__init__(engine, **keys)
        self.options, self.step_count, self.random = options, 0, torch.Generator().manual_seed(4)

    def gan(self, logits, real):
        return adversarial_loss(self.options["adversarial"], logits, real)

    def penalty(self, critic, real, fake):
        share = torch.rand(len(real), 1, 1, 1, generator=self.random).to(real)
        between = ((1 - share) * real + share * fake).requires_grad_()
        excess = 0
        for index in range(len(real)):  # one image at a time, one number an image
            with twice_differentiable():  # the others are differentiable once
                value = critic(between)[index].mean()
            (slope,) = torch.autograd.grad(value, between, create_graph=True)
            excess = excess + ((slope[index] ** 2).sum().sqrt() - 1) ** 2
        return excess / len(real)

    def step(self, a, b):
        G, F, D_A, D_B = (self.networks[name] for name in ("G", "F", "D_A", "D_B"))
        fake_a, fake_b = F(b), G(a)
        losses, scale, weight = {}, self.options["discriminator_scale"], self.options["reconstruction_weight"]
        turn = self.step_count % self.options["critic_steps"] == self.options["critic_steps"] - 1
        if turn:
            losses["adversarial_G"], losses["adversarial_F"] = self.gan(D_B(fake_b), True), self.gan(D_A(fake_a), True)
            losses["reconstruction_a"] = weight * (F(fake_b) - a).abs().mean()
            losses["reconstruction_b"] = weight * (G(fake_a) - b).abs().mean()
        for side, critic, real, fake in (("A", D_A, a, fake_a.detach()), ("B", D_B, b, fake_b.detach())):
            losses[f"discriminator_{side}"] = scale * (self.gan(critic(real), True) + self.gan(critic(fake), False))
            if self.options.get("gradient_penalty"):
                penalty = self.options["gradient_penalty"] * self.penalty(critic, real, fake)
                losses[f"gradient_penalty_{side}"] = scale * penalty
        generators, critics = (
            sum(loss for name, loss in losses.items() if name.startswith(kinds))
            for kinds in (("adversarial", "reconstruction"), ("discriminator", "gradient_penalty"))
        )
        all_gradients = {
            **self.gradients(critics, "D_A", "D_B"),
            **(self.gradients(generators, "G", "F") if turn else {}),
        }
        for name, gradients in all_gradients.items():
            for weight, gradient in zip(self.networks[name].parameters(), gradients, strict=True):
                weight.grad = gradient
            self.optimisers[name].step()
        self.step_count += 1
        if self.options.get("clip"):
            for weight in [*D_A.parameters(), *D_B.parameters()]:
                weight.data = weight.data.clip(-self.options["clip"], self.options["clip"])
        return losses

    def gradients(self, loss, *names):
        weights = {name: list(self.networks[name].parameters()) for name in names}
        return {
            name: torch.autograd.grad(loss, ours, retain_graph=True, allow_unused=True)
            for name, ours in weights.items()
        }


@pytest.mark.parametrize("critic_steps", [1, 3])
@pytest.mark.parametrize(
    "method",
    [
        {"adversarial": "least_squares"},
        {"adversarial": "bce"},
        {"adversarial": "wasserstein", "clip": 0.01},
        {"adversarial": "wasserstein", "gradient_penalty": 5.0},
    ],
    ids=lambda method: "-".join(map(str, method.values())),
)
def test_losses_and_weights_are_those_of_the_paper_written_out(method, critic_steps):
    options = {**method, "reconstruction_weight": 7.0, "discriminator_scale": 0.6, "critic_steps": critic_steps}
    engine = engine_of(
        type="dualgan", dtype=torch.float64, seed=4, optimiser="rmsprop", learning_rate=1e-3,
        discriminator_learning_rate=3e-3, **options,
    )  # fmt: skip
    plain = PlainDualGan(
        engine, options, rates=(1e-3, 3e-3), optimiser=lambda weights, rate: torch.optim.RMSprop(weights, rate, 0.9)
    )
    assert_equal_steps(engine, plain, 4)


# ── the critics ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda image: 0.25 * image.sum(dim=(1, 2, 3)), 0.25 * 16),  # 16×16 pixels
        (lambda image: nn.functional.avg_pool2d(image, 4) * 16, 16 / 16),  # the mean of 16 patches: 1/16 a pixel, × 16
        (lambda image: [2 * image.mean(dim=(1, 2, 3)), 1 * image.mean(dim=(1, 2, 3))], 3 / 16),  # two scales add up
    ],
    ids=["sum", "patches", "scales"],
)
def test_the_gradient_penalty_is_by_hand(function, slope):
    engine = engine_of(**PENALISED, dtype=torch.float64)
    engine.discriminators["D_A"] = Score(function)
    losses = engine.discriminator_losses("A", *batch(0, dtype=torch.float64))
    assert losses["gradient_penalty_A"].item() == pytest.approx(0.5 * 10.0 * (slope - 1) ** 2)


def test_the_gradient_penalty_has_all_its_digits_in_half_precision():
    engine = engine_of(**PENALISED, width=8, precision="bf16")
    real, fake = batch(0)
    random = copy.deepcopy(engine.random.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        half = engine._gradient_penalty("D_A", real, fake.bfloat16())
    engine.random.load_state_dict(random)
    assert torch.equal(half, engine._gradient_penalty("D_A", real, fake.bfloat16().float()))
    assert all(torch.isfinite(loss) for loss in engine.step(*batch(0)).values())


def moves(engine, steps, bad=()):
    """The players that moved in each step."""
    players = []
    for index in range(steps):
        before = copy.deepcopy({name: network.state_dict() for name, network in engine.networks().items()})
        real = batch(index)
        engine.step(*(image * float("nan") if index in bad else image for image in real))
        after = {name: network.state_dict() for name, network in engine.networks().items()}
        changed = {key.split("/")[1] for key in differences(before, after)}
        players.append({(): "none", ("D_A", "D_B"): "critics", ("D_A", "D_B", "F", "G"): "all"}[tuple(sorted(changed))])
    return players


def test_skipped_steps_do_not_count_for_the_rhythm():
    players = moves(engine_of(**CLIPPED, critic_steps=3), 6, bad=(1, 3))
    assert players == ["critics", "none", "critics", "none", "all", "critics"]


def test_where_the_critics_move_alone_the_generators_translate_and_no_average_moves():
    engine = engine_of(**CLIPPED, critic_steps=2, ema_decay=0.9)
    passes = []
    engine.generators["G"].register_forward_hook(lambda module, inputs, output: passes.append(output.requires_grad))
    first, counted = engine.step(*batch(0)), engine.state_dict()["averaged_steps"]
    second = engine.step(*batch(1))
    assert passes == [False, True]
    assert set(first) == {"discriminator_A", "discriminator_B"}
    assert set(second) - set(first) == {"adversarial_G", "adversarial_F", "reconstruction_a", "reconstruction_b"}
    assert (counted, engine.state_dict()["averaged_steps"]) == (0, 1)
