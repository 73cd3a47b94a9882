"""Structure losses: what they see and what not, and their part in the methods."""

import copy

import numpy as np
import pytest
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss
from pydantic import ValidationError
from small_engine import MUNIT, RAMP, UNIT, batch, config_of, differences, engine_of, saved

from pipeline.engines.structure import (
    LEAST_NOISE,
    STRUCTURE_LOSSES,
    StructureOptions,
    StructureTerm,
    head_and_noise,
    mind,
)

UNPAIRED = {
    "cyclegan": {"type": "cyclegan", "pool_size": 3},
    "dualgan": {"type": "dualgan"},
    "munit": {**MUNIT},
    "unit": {**UNIT},
    "cut": {"type": "cut", "patches": 20, "head_width": 8},
}
every_kind = pytest.mark.parametrize("kind", STRUCTURE_LOSSES)
every_method = pytest.mark.parametrize("method", UNPAIRED)
SIZE, RADIUS = 64, 20


def distance_to_centre():
    place = torch.arange(SIZE) - SIZE / 2
    return torch.hypot(place[:, None], place[None, :])


def head(noise=0.0, seed=0):
    """A round head (1, 1, 64, 64) with waves in it, in air of -1; float64."""
    place = torch.arange(SIZE, dtype=torch.float64)
    waves = 0.35 * (torch.sin(place[:, None] / 2) + torch.cos(place[None, :] / 3))
    random = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(distance_to_centre() < RADIUS, waves + noise * random, -1.0)[None, None]


def loss(kind, translation, source):
    return STRUCTURE_LOSSES[kind](translation, source).item()


# ── what a loss sees ────────────────────────────────────────────────────────────────────────────────────────


@every_kind
def test_a_contrast_that_is_inverted_or_stretched_costs_little_and_a_pixel_of_shift_much(kind):
    source = head()
    same = loss(kind, source, source)
    assert 0 <= same < 0.2  # flat air around the head costs 1 with ngf
    for translation in (-source, 0.5 * source, 0.2 - 0.7 * source):
        assert loss(kind, translation, source) < same + 0.02
        for axis in (2, 3):
            assert loss(kind, translation.roll(1, axis), source) > same + 0.04
    assert loss(kind, source.roll(2, 3), source) > loss(kind, source.roll(1, 3), source)


@every_kind
def test_air_counts_neither_in_the_translation_nor_in_the_source(kind):
    source, translation = head(noise=0.02), -head(noise=0.02, seed=1)
    expected = loss(kind, translation, source)
    noise = torch.rand(SIZE, SIZE, dtype=torch.float64)
    far = distance_to_centre() > RADIUS + 10
    assert loss(kind, torch.where(far, noise, translation), source) == expected
    assert loss(kind, translation, torch.where(far, -1 + 0.04 * noise, source)) == expected
    assert loss(kind, torch.where(far, translation, noise), source) != expected


@every_kind
@pytest.mark.parametrize("level", [-1.0, 0.5])
def test_images_of_one_value_have_finite_losses_and_gradients(kind, level):
    for source in (torch.full((2, 1, SIZE, SIZE), level), head().float()):
        translation = torch.full_like(source, 0.3).requires_grad_()
        value = STRUCTURE_LOSSES[kind](translation, source)
        value.backward()
        assert value.isfinite() and translation.grad.isfinite().all()


@every_kind
def test_the_loss_of_a_batch_is_the_mean_over_its_slices(kind):
    """As processes that share a batch compute it; slices have heads of different sizes."""
    sources = torch.cat([head(0.02), head(0.05, 1), torch.full((1, 1, SIZE, SIZE), -1.0, dtype=torch.float64)])
    sources[1, :, :30] = -1
    translations = -sources.roll(1, 3)
    translations[1] = translations[1].roll(1, 2)
    by_slice = [loss(kind, translations[i : i + 1], sources[i : i + 1]) for i in range(3)]
    assert loss(kind, translations, sources) == pytest.approx(np.mean(by_slice), rel=1e-12)
    assert by_slice[0] != pytest.approx(by_slice[1], rel=0.01)


def test_noise_is_measured_inside_the_head_among_edges():
    place = torch.arange(128, dtype=torch.float64)
    random = torch.randn(128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = torch.where(place > 60, 0.5, -0.5) + 0.003 * place[:, None] + 0.04 * random
    image[:40] = -1
    _, noise = head_and_noise(torch.stack([image, 0 * image])[:, None])
    assert noise.shape == (2, 1, 1, 1)
    assert noise[0].item() == pytest.approx(0.04, rel=0.06)
    assert noise[1].item() == LEAST_NOISE


def slow_mind_loss(translation, source):
    """MIND pixel by pixel, of images (H, W) without air."""
    floor = 4 * head_and_noise(torch.tensor(source)[None, None])[1].item() ** 2

    def descriptor(image, row, column):
        distances = []
        for down, right in ((0, -2), (0, 2), (-2, 0), (2, 0)):
            squares = [
                (image[row + i, column + j] - image[row + i + down, column + j + right]) ** 2
                for i in range(-2, 3)
                for j in range(-2, 3)
            ]
            distances.append(np.mean(squares))
        return np.exp(-np.array(distances) / max(np.mean(distances), floor))

    pixels = [(row, column) for row in range(4, len(source) - 4) for column in range(4, source.shape[1] - 4)]
    return np.mean([np.abs(descriptor(translation, *pixel) - descriptor(source, *pixel)).mean() for pixel in pixels])


def test_mind_is_that_of_its_formula():
    translation, source = np.random.default_rng(0).uniform(-0.5, 1, (2, 12, 15))
    source[:, 7:] *= 0.1
    batches = (torch.tensor(image)[None, None] for image in (translation, source))
    assert mind(*batches).item() == pytest.approx(slow_mind_loss(translation, source), rel=1e-10)


def test_local_correlation_is_that_of_monai_where_noise_is_far_below_the_structure():
    source, translation = head()[..., 20:44, 20:44], -head(0.2)[..., 20:44, 20:44]
    theirs = LocalNormalizedCrossCorrelationLoss(2, 7, reduction="none")(translation, source)[..., 3:-3, 3:-3]
    assert loss("lncc", translation, source) == pytest.approx(1 + theirs.mean().item(), rel=1e-6)


def test_gradients_of_one_edge_count_by_their_directions():
    place = torch.arange(32, dtype=torch.float64) / 16 - 0.9
    across, along = place.expand(1, 1, 32, 32), place[:, None].expand(1, 1, 32, 32)
    assert loss("ngf", across, along) == pytest.approx(1)
    squares = (1 / 16) ** 2
    assert loss("ngf", -across, across) == pytest.approx(1 - (squares / (squares + LEAST_NOISE**2)) ** 2)
    diagonal = (across + along) / 2
    assert loss("ngf", across, diagonal) == pytest.approx(0.5, abs=0.05)


# ── its part in a method ────────────────────────────────────────────────────────────────────────────────────


def make(method, kind="mind", ramp=RAMP, **options):
    return engine_of(**UNPAIRED[method] | {"structure": {"type": kind, **ramp}} | options)


@every_method
def test_every_unpaired_method_holds_both_translations_to_their_sources(method):
    engine = make(method, ramp={"weight": 3.0})
    real_a, real_b = batch(0)
    compared = []
    term = engine.structure
    engine.structure = lambda translation, source: compared.append((translation, source)) or term(translation, source)
    generators = engine.losses(real_a, real_b)["generators"]
    assert all(torch.equal(source, real) for (_, source), real in zip(compared, (real_a, real_b), strict=True))
    for name, (translation, source), side in zip("GF", compared, "ba", strict=True):
        assert translation.requires_grad and translation.shape == source.shape
        torch.testing.assert_close(generators[f"structure_{name}"], 3 * mind(translation, source))
        if method in ("cyclegan", "dualgan", "cut"):
            torch.testing.assert_close(translation, engine.translators()[side](source))


@every_method
def test_without_a_structure_loss_all_is_as_with_one_of_no_weight(method):
    engines = [engine_of(**UNPAIRED[method]), make(method, ramp={"weight": 0.0})]
    names = [list(engine.step(*batch(0))) for engine in engines]
    for engine in engines:
        engine.step(*batch(1))
    assert set(names[1]) - set(names[0]) == {"structure_G", "structure_F"}
    assert engines[0].structure is None and "structure" not in engines[0].state_dict()
    changed = differences(saved(engines[0]), saved(engines[1]))
    assert changed == {"/structure/made"}


def test_the_weight_grows_over_the_steps_that_moved_weights():
    term = StructureTerm(StructureOptions(type="mind", weight=2.0, ramp_steps=4), torch.device("cpu"))
    source, translation = head(), head().roll(2, 3)
    expected = mind(translation, source).item()
    for share, counts in ((0, True), (0.25, False), (0.25, True), (0.5, True), (0.75, True), (1, True), (1, True)):
        assert term(translation, source).item() == pytest.approx(2 * share * expected, rel=1e-6)
        term.count_step(torch.tensor(counts))


def test_a_resumed_ramp_goes_on_in_the_same_bits_and_counts_no_skipped_step():
    engine = make("cyclegan")
    engine.step(*batch(0))
    before = copy.deepcopy(engine.state_dict())
    real_a, real_b = batch(1)
    real_b[0, 0, 5, 5] = torch.nan
    engine.step(real_a, real_b)
    assert engine.state_dict()["structure"] == before["structure"] == {"made": 1}
    middle = saved(engine)
    other = make("cyclegan", weights_seed=77, seed=5)
    other.load_state_dict(middle)
    for index in range(2, 4):
        losses = [stepped.step(*batch(index)) for stepped in (engine, other)]
        assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    assert differences(saved(engine), saved(other)) == set()
    assert saved(engine)["structure"] == {"made": 3}


def test_a_method_that_has_pairs_takes_no_structure_loss():
    with pytest.raises(ValidationError, match="structure"):
        config_of(type="pix2pix", structure={"type": "mind"})
