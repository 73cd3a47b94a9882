import copy
import json

import pytest
import torch
from small_engine import UNIT, Plain, assert_equal_steps, batch, config_of, differences, engine_of, saved

from pipeline.engines.builders import build_engine, build_translators
from pipeline.training.run_record import write_run_record
from pipeline.training.schedule import TrainerState

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
    for networks in (engine.generators, engine.best_generators()):
        assert shares(networks) == [True, True, False, False]
        assert networks["A"].encoder[-1] is networks["B"].encoder[-1]


def test_a_shared_weight_enters_the_optimiser_and_the_average_once():
    engine = unit(ema_decay=0.9, learning_rate=1e-2)
    optimised = engine.optimisers["generators"].param_groups[0]["params"]
    assert len(optimised) == len({id(weight) for weight in optimised}) == len(list(engine.generators.parameters()))
    weight_name = "A.encoder.3.layers.0.weight"
    mean = engine.best_generators().state_dict()[weight_name].clone()
    for step in range(1, 4):
        engine.step(*batch(step))
        mean.lerp_(engine.generators.state_dict()[weight_name], 1 - min(0.9, (1 + step) / (10 + step)))
    torch.testing.assert_close(engine.best_generators().state_dict()[weight_name], mean)
    averaged = engine.best_generators().state_dict()
    assert torch.equal(averaged["B.encoder.3.layers.0.weight"], averaged[weight_name])


def test_a_loaded_state_shares_as_before():
    engine, fresh = unit(ema_decay=0.9), unit(ema_decay=0.9, weights_seed=7)
    engine.step(*batch(0))
    fresh.load_state_dict(saved(engine))
    fresh.step(*batch(1))
    for networks in (fresh.generators, fresh.best_generators()):
        assert shares(networks) == [True, True, False, False]


def test_a_runs_record_counts_shared_weights_once(tmp_path):
    counts = []
    for shared_blocks in (0, 1):
        config = config_of(**UNIT | {"generator": UNIT["generator"] | {"shared_blocks": shared_blocks}})
        engine, path = build_engine(config, torch.device("cpu")), tmp_path / f"{shared_blocks}.json"
        settings = {"method": "unit", "batch_size": 1, "precision": "float32", "configuration": ""}
        write_run_record(path, engine, TrainerState(step=1), torch.device("cpu"), **settings)
        counts.append(json.loads(path.read_text())["translator_parameters"])
    block = sum(weight.numel() for weight in engine.generators["A"].decoder[0].parameters())
    assert counts[0] - counts[1] == 2 * block > 0


# ── noise ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_step_draws_noise_of_variance_one_and_a_translation_none():
    engine = unit()
    A, latents = engine.networks()["A"], []
    A.decoder.register_forward_hook(lambda module, inputs, output: latents.append(inputs[0].detach()))
    real = batch(0, count=8, size=64)
    for _ in range(2):
        engine.losses(*real)
    reconstruction_latents = [
        latent[8:] for latent in latents if len(latent) == 16
    ]  # decoded beside those that translate
    assert len(reconstruction_latents) == 2
    first, second = ((latent - A.encode(real[0])).detach() for latent in reconstruction_latents)
    for noise in (first, second):
        assert noise.mean().item() == pytest.approx(0, abs=0.02)
        assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(first, second)
    translator = engine.translators()["b"]
    assert torch.equal(translator(real[0]), translator(real[0]))
    assert torch.equal(translator(real[0]), engine.networks()["B"].decode(A.encode(real[0])))


def test_the_noise_is_the_seeds():
    first, second, other = (unit(seed=seed) for seed in (1, 1, 2))
    losses = [engine.step(*batch(0)) for engine in (first, second, other)]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    assert not torch.equal(losses[0]["image_a"], losses[2]["image_a"])
    assert torch.equal(losses[0]["kl_a"], losses[2]["kl_a"])  # of the mean, which has no noise


# ── learning ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_heavy_divergence_pulls_the_latents_to_the_prior():
    engine = unit(learning_rate=1e-2, kl_weight=100.0)
    losses = [engine.step(*batch(0)) for _ in range(25)]
    assert losses[-1]["kl_a"] < 0.5 * losses[0]["kl_a"]


def test_both_directions_come_back_from_a_checkpoint_one_after_the_other():
    engine = unit()
    engine.step(*batch(0))
    fresh, image = build_translators(config_of(**UNIT)), batch(3)[0]
    for side, contrast in (("a", "T1"), ("b", "T2")):
        fresh[contrast].load_state_dict(copy.deepcopy(engine.translators()[side].state_dict()))
    with torch.no_grad():
        for side, contrast in (("a", "T1"), ("b", "T2")):
            assert torch.equal(fresh[contrast](image), engine.translators()[side](image))
