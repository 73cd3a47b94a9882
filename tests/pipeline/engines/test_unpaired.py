"""What discriminators are shown beside the batch, and their R1 penalty."""

import copy

import pytest
import torch
from small_engine import CYCLEGAN, MUNIT, Score, batch, differences, engine_of, saved
from torch import nn

from networks.cpu_kernels import twice_differentiable
from pipeline.engines.unpaired import R1Penalty
from pipeline.utils.distributed import World

SLICES = {**CYCLEGAN, "pool_size": 6, "discriminator_slices": 5}


# ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────


def shown(engine, index):
    """What each discriminator is shown in a step: real slices and translations, (10, 1, 16, 16)."""
    inputs = {}
    handles = [
        network.register_forward_hook(lambda module, args, output, name=name: inputs.update({name: args[0].detach()}))
        for name, network in engine.discriminators.items()
    ]
    engine.step(*batch(index))
    for handle in handles:
        handle.remove()
    return inputs


@pytest.mark.parametrize("options", [SLICES, {**MUNIT, "discriminator_slices": 5}], ids=["cyclegan", "munit"])
def test_a_discriminator_sees_the_batch_and_earlier_slices_of_its_contrast(options):
    engine, earlier = engine_of(**options), []
    for index in range(3):
        images = shown(engine, index)
        assert {len(image) for image in images.values()} == {10}
        for side, real in zip("AB", batch(index), strict=True):
            reals, fakes = images[f"D_{side}"].split(5)
            assert torch.equal(reals[:2], real) and not any(torch.equal(fakes[0], image) for image in reals)
            known = [*real, *(image for past in earlier for image in past["AB".index(side)])]
            assert all(any(torch.equal(image, other) for other in known) for image in reals)
            if index == 2:  # four were stored: the three beside the batch are different ones of an earlier step
                assert len({image.sum().item() for image in reals}) == 5
                assert len({image.sum().item() for image in fakes}) == 5
        earlier.append(batch(index))
    assert {name for name in engine.extra_state() if "pool" in name} == {
        "pool_a", "pool_b", "real_pool_a", "real_pool_b",
    }  # fmt: skip
    assert len(engine.pools["real_pool_a"].images) == 6


def test_the_largest_seed_draws_from_pools_too():
    engine_of(**SLICES, seed=2**63 - 1).step(*batch(0))


@pytest.mark.parametrize("options", [CYCLEGAN, MUNIT], ids=["cyclegan", "munit"])
def test_without_the_options_nothing_is_kept_or_drawn(options):
    engine = engine_of(**options)
    before = set(engine.state_dict())
    assert not {name for name in before if name.startswith(("real_pool", "r1"))}
    assert engine.r1 is None and not engine.requires_host_sync


def test_the_two_pools_draw_independently_and_otherwise_with_each_seed():
    draws = [
        tuple(pool.random.uniform(4).tolist())
        for seed in range(3)
        for pool in engine_of(pool_size=3, seed=seed).pools.values()
    ]
    assert len(set(draws)) == 6


def test_a_number_that_processes_cannot_share_evenly_is_seen_by_each():
    engine, whole = engine_of(), torch.arange(6)
    engine.world = World(rank=1, size=2)
    assert engine._local_shard(whole).tolist() == [3, 4, 5]
    assert engine._local_shard(whole[:5]).tolist() == [0, 1, 2, 3, 4]


# ── R1 ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("function", "squared_slope"),
    [
        (lambda image: 0.25 * image.sum(dim=(1, 2, 3), keepdim=True), 0.25**2 * 16 * 16),
        (lambda image: nn.functional.avg_pool2d(image, 4) * 3, 3**2 / 16),  # each of 16 patches: 3/16 at 16 pixels
        (lambda image: [2 * image.mean(dim=(1, 2, 3), keepdim=True), nn.functional.avg_pool2d(image, 4)], 5 / 64),
    ],
    ids=["one logit", "patches", "scales"],
)
def test_the_penalty_is_by_hand(function, squared_slope):
    """Patches that do not overlap, and for scales the mean over many signs."""
    penalty, real = R1Penalty(1, 0, torch.device("cpu")), batch(0, count=3, dtype=torch.float64)[0]
    means = [penalty(Score(function), real, lambda *shape: penalty.draw_signs(3, *shape)).item() for _ in range(400)]
    assert sum(means) / len(means) == pytest.approx(squared_slope, rel=0.05)


def test_overlapping_patches_count_as_discriminators_of_their_own():
    penalty, real = R1Penalty(1, 0, torch.device("cpu")), batch(0, count=8, dtype=torch.float64)[0]
    kernel = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    overlapping = Score(lambda image: nn.functional.conv2d(image, kernel))  # a pixel is seen by up to 16 of 169
    values = [penalty(overlapping, real, lambda *shape: penalty.draw_signs(8, *shape)).item() for _ in range(300)]
    assert sum(values) / len(values) == pytest.approx(16, rel=0.05)


def test_it_comes_in_one_of_so_many_steps_with_as_many_times_its_weight():
    rare, often = (engine_of(r1_weight=2.0, r1_every=every, dtype=torch.float64) for every in (3, 1))
    names = []
    first, single = rare.step(*batch(0, dtype=torch.float64)), often.step(*batch(0, dtype=torch.float64))
    assert first["r1_A"].item() == pytest.approx(3 * single["r1_A"].item()) and first["r1_A"] > 0
    for index in range(1, 5):
        names.append("r1_B" in rare.step(*batch(index, dtype=torch.float64)))
    assert names == [False, False, True, False]
    assert rare.requires_host_sync and not often.requires_host_sync


def test_a_skipped_step_does_not_count():
    engine = engine_of(r1_weight=1.0, r1_every=2)
    engine.step(*batch(0))
    bad = [image * torch.nan for image in batch(1)]
    assert ["r1_A" in engine.step(*images) for images in (bad, batch(2), batch(3))] == [False, False, True]


def test_it_makes_a_discriminator_flatter_and_has_all_its_digits_in_half_precision():
    slopes = []
    for weight in (0.0, 100.0):
        engine = engine_of(r1_weight=weight, r1_every=2, discriminator_learning_rate=1e-2, precision="bf16")
        for index in range(20):
            engine.step(*batch(index))
        penalty = R1Penalty(1, 0, torch.device("cpu"))
        real = batch(30, count=8)[0]
        with twice_differentiable():
            value = penalty(
                engine.discriminators["D_A"], real, lambda *shape, arguments=penalty: arguments.draw_signs(8, *shape)
            )
        slopes.append(value.item())
    assert slopes[1] < slopes[0] / 4


# ── warm-up ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_frozen_player_does_not_move_while_the_other_does():
    engine = engine_of(ema_decay=0.9, weight_decay=0.1)
    before = copy.deepcopy(engine.state_dict())
    assert engine.set_learning_rate(0.5, frozen=["generators"]) == {"generators": 0.0, "discriminators": 1e-4}
    for index in range(3):
        losses = engine.step(*batch(index))
    after = saved(engine)
    unchanged = [name for name in ("G", "F", "D_A", "D_B", "averaged") if not differences(before[name], after[name])]
    assert unchanged == ["G", "F", "averaged"] and "adversarial_G" in losses
