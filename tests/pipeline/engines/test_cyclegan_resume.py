import copy

import pytest
import torch
from small_engine import batch, differences, engine_of, force_the_ways, saved, train

RESUMED = {"depth": 6, "width": 1, "dropout": 0.5, "pool_size": 3, "ema_decay": 0.99, "adversarial": "bce"}
STATEFUL = ["G", "F", "D_A", "D_B", "averaged", "averaged_steps", "pool_a", "pool_b"]
STATEFUL += ["optimiser_generators", "optimiser_discriminators"]


@pytest.fixture(scope="module")
def interrupted():
    """The state and random state after five steps, and the state four steps later."""
    engine = engine_of(**RESUMED)
    train(engine, range(5), size=64)
    middle, random = saved(engine), torch.get_rng_state()
    train(engine, range(5, 9), size=64)
    return middle, random, saved(engine)


def resumed(state, random):
    """The state four steps after resuming a fresh engine that was drawn differently."""
    engine = engine_of(weights_seed=77, seed=5, **RESUMED)
    engine.load_state_dict(copy.deepcopy(state))
    if random is not None:
        torch.set_rng_state(random)
    train(engine, range(5, 9), size=64)
    return saved(engine)


def test_a_resumed_engine_ends_in_the_same_bits(interrupted):
    middle, random, end = interrupted
    assert differences(middle, end)
    assert differences(resumed(middle, random), end) == set()


def test_by_the_ways_of_large_layers_it_does_so_too(monkeypatch):
    force_the_ways(monkeypatch)
    engine = engine_of(**RESUMED)
    train(engine, range(5), size=64)
    middle, random = saved(engine), torch.get_rng_state()
    train(engine, range(5, 9), size=64)
    assert differences(resumed(middle, random), saved(engine)) == set()


@pytest.mark.parametrize("part", STATEFUL)
def test_a_part_that_is_not_restored_is_noticed(interrupted, part):
    middle, random, end = interrupted
    fresh = saved(engine_of(weights_seed=77, seed=5, **RESUMED))
    different = differences(resumed({**middle, part: fresh[part]}, random), end)
    assert any(not key.startswith(f"/{part}") for key in different) or part in ("averaged", "averaged_steps")
    assert different


def test_a_random_state_that_is_not_restored_is_noticed(interrupted):
    middle, _, end = interrupted
    assert differences(resumed(middle, None), end)


def test_every_part_with_a_state_is_among_those_whose_loss_was_tried(interrupted):
    assert set(interrupted[0]) - {"scaler"} == set(STATEFUL)  # the scaler has a state with fp16 only
    assert interrupted[0]["scaler"] == {}


def test_the_loss_scaler_goes_on_where_it_was():
    def scaled(steps, engine):
        for index in steps:
            engine.step(*batch(index))
        return engine

    halves = {"precision": "fp16", "weights_seed": 3}
    engine = engine_of(**halves)
    engine.scaler.set_growth_interval(2)
    middle = saved(scaled(range(5), engine))
    end = saved(scaled(range(5, 8), engine))
    fresh = engine_of(**halves)
    assert differences(middle["scaler"], saved(fresh)["scaler"])
    fresh.load_state_dict(middle)
    assert differences(saved(fresh), middle) == set()
    assert differences(saved(scaled(range(5, 8), fresh)), end) == set()


def test_the_two_pools_draw_independently_and_otherwise_with_each_seed():
    samples = [
        tuple(pool.random.uniform(4).tolist())
        for seed in range(3)
        for pool in engine_of(pool_size=3, seed=seed).pools.values()
    ]
    assert len(set(samples)) == 6


def test_the_order_in_which_a_method_names_its_players_makes_no_difference(monkeypatch):
    usual, turned = engine_of(), engine_of()
    losses = type(turned).losses
    monkeypatch.setattr(turned, "losses", lambda *real: dict(reversed(losses(turned, *real).items())))
    for index in range(2):
        usual.step(*batch(index))
        turned.step(*batch(index))
    assert differences(saved(usual), saved(turned)) == set()
