import pytest
import torch
from small_engine import Plain, assert_equal_steps, batch, engine_of


class PlainCut(Plain):
    """The step of Park et al. 2020 written out: a loop over layers, images and places."""

    def __init__(self, engine, nce_weight, identity, temperature, patches, **keys):
        super().__init__(engine, **keys)
        self.nce_weight, self.identity, self.temperature, self.patches = nce_weight, identity, temperature, patches
        self.random = torch.Generator().manual_seed(6)

    def nce(self, generator, head, source, output):
        keys_of, queries_of = generator.features(source.detach()), generator.features(output)
        chosen = [torch.randperm(features[0, 0].numel(), generator=self.random)[: self.patches] for features in keys_of]
        layers = []
        for perceptron, key_map, query_map, positions in zip(
            head.perceptrons, keys_of, queries_of, chosen, strict=True
        ):
            terms = []
            for image in range(len(source)):
                vectors = []
                for features in (key_map, query_map):
                    at = features[image].reshape(features.shape[1], -1)[:, positions].T  # (P, C)
                    projected = perceptron(at)
                    vectors.append(projected / projected.norm(dim=1, keepdim=True).clamp(min=1e-12))
                keys, queries = vectors[0].detach(), vectors[1]
                for position in range(len(positions)):
                    positive = torch.exp(queries[position] @ keys[position] / self.temperature)
                    every = sum(torch.exp(queries[position] @ key / self.temperature) for key in keys)
                    terms.append(-torch.log(positive / every))
            layers.append(sum(terms) / len(terms))
        return sum(layers) / len(layers)

    def step(self, a, b):
        losses = {}
        for name, side, source, target in (("G", "B", a, b), ("F", "A", b, a)):
            generator, head, discriminator = (self.networks[key] for key in (name, f"H_{name}", f"D_{side}"))
            fake = generator(source)
            before = fake.detach()
            generator_losses = {
                f"adversarial_{name}": ((discriminator(fake) - 1) ** 2).mean(),
                f"nce_{name}": self.nce_weight * self.nce(generator, head, source, fake),
            }
            if self.identity:
                nce = self.nce(generator, head, target, generator(target))
                generator_losses[f"nce_identity_{name}"] = self.nce_weight * nce
            self.update(sum(generator_losses.values()), name, f"H_{name}")
            discriminator_loss = 0.5 * (((discriminator(target) - 1) ** 2).mean() + (discriminator(before) ** 2).mean())
            self.update(discriminator_loss, f"D_{side}")
            losses |= {**generator_losses, f"discriminator_{side}": discriminator_loss}
        return losses


@pytest.mark.parametrize("identity", [True, False])
def test_losses_and_weights_are_those_of_the_paper_written_out(identity):
    options = {"nce_weight": 1.7, "identity": identity, "temperature": 0.2, "patches": 6}
    engine = engine_of(type="cut", dtype=torch.float64, seed=6, head_width=16, learning_rate=1e-3, **options)
    assert_equal_steps(engine, PlainCut(engine, rates=(1e-3, 2e-4), **options), 2)


# ── the contrastive loss ────────────────────────────────────────────────────────────────────────────────────


def test_half_precision_does_not_reach_the_cross_entropy():
    engine = engine_of(type="cut", precision="bf16")
    vectors = torch.nn.functional.normalize(
        torch.randn(2, 2, 40, 8, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    with torch.autocast("cpu", torch.bfloat16):
        half = engine._contrastive_loss(*vectors)
    assert torch.equal(half, engine._contrastive_loss(*vectors))


def test_all_places_of_a_small_layer_are_compared_and_no_more_than_asked_of_a_large_one():
    engine = engine_of(type="cut", patches=50, identity=False)  # layers of 16×16, 8×8 and 4×4 places
    outputs = []
    head = engine.generators["H_G"]
    head.register_forward_hook(
        lambda module, inputs, output: outputs.append([features.shape[1] for features in output])
    )
    engine.step(*batch(0))
    assert outputs == [[50, 50, 16]] * 2  # of the keys and of the queries
