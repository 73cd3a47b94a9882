"""What every method must keep to, whatever its losses: one row here is a method's part in all of it."""

import copy
import typing

import pytest
import torch
from small_engine import (
    DISCRIMINATOR_KINDS,
    MUNIT,
    SMALL_GENERATORS,
    UNIT,
    batch,
    config_of,
    differences,
    engine_of,
    force_the_ways,
    saved,
    train,
)

from pipeline.config.methods import SUITABLE_GENERATORS, AnyMethod, Generator
from pipeline.engines.base import DISCRIMINATORS, GENERATORS
from pipeline.engines.builders import build_engine, build_translators

METHODS = {
    "cyclegan": {"type": "cyclegan", "pool_size": 3},
    "cyclegan-mind": {"type": "cyclegan", "structure": {"type": "mind"}},
    "cyclegan-bce-no-identity": {"type": "cyclegan", "adversarial": "bce", "identity_share": 0.0},
    "dualgan": {"type": "dualgan"},
    "dualgan-clip": {
        "type": "dualgan", "adversarial": "wasserstein", "clip": 0.02, "critic_steps": 2, "optimiser": "rmsprop"
    },
    "dualgan-penalty": {"type": "dualgan", "adversarial": "wasserstein", "gradient_penalty": 10.0, "critic_steps": 3},
    "munit": {**MUNIT},
    "munit-ngf": {**MUNIT, "structure": {"type": "ngf", "weight": 3.0}},
    "munit-cycle-random": {**MUNIT, "cycle_weight": 10.0, "translate_with": "random"},
    "unit": {**UNIT},
    "pix2pix": {"type": "pix2pix"},
    "pix2pix-regression": {"type": "pix2pix", "adversarial_weight": 0.0},
    "cut": {"type": "cut", "patches": 20, "head_width": 8},
    "cut-lncc": {"type": "cut", "patches": 20, "head_width": 8, "structure": {"type": "lncc"}},
    "cut-no-identity": {"type": "cut", "patches": 20, "head_width": 8, "identity": False},
}  # fmt: skip
SHOWN = {"discriminator_slices": 4, "r1_weight": 1.0, "r1_every": 2}
METHODS |= {f"{name}-slices-r1": METHODS[name] | SHOWN for name in ("cyclegan", "dualgan", "munit", "unit", "cut")}
NETWORKS = {
    "munit": {"A", "B", "D_A", "D_B"},
    "unit": {"A", "B", "D_A", "D_B"},
    "cut": {"G", "F", "H_G", "H_F", "D_A", "D_B"},
    "pix2pix-regression": {"G", "F"},
}  # of methods that have others than the usual ones
USUAL_NETWORKS = {"G", "F", "D_A", "D_B"}
FIRST_OF_ITS_TYPE = list({options["type"]: name for name, options in reversed(METHODS.items())}.values())
every_method = pytest.mark.parametrize("method", METHODS)


def make(method, **options):
    return engine_of(**METHODS[method] | options)


def steps_to_all(method):
    """How many steps it takes until every player has moved."""
    return METHODS[method].get("critic_steps", 1)


def types_of(union):
    return {typing.get_args(model.model_fields["type"].annotation)[0] for model in typing.get_args(union)}


def test_every_method_and_kind_of_generator_has_its_row():
    assert {options["type"] for options in METHODS.values()} == types_of(AnyMethod)
    assert {options["type"] for options in SMALL_GENERATORS.values()} == types_of(Generator)


# ── resuming ────────────────────────────────────────────────────────────────────────────────────────────────


def assert_resumes_bitwise(method, steps=2, size=16, **options):
    """An engine drawn differently, given the state, ends where the one that went on ends."""
    engine = make(method, **options)
    train(engine, range(2), size)
    middle, random = saved(engine), torch.get_rng_state()
    train(engine, range(2, 2 + steps), size)
    fresh = make(method, weights_seed=77, seed=5, **options)
    fresh.load_state_dict(middle)
    torch.set_rng_state(random)
    train(fresh, range(2, 2 + steps), size)
    assert differences(middle, saved(engine))
    assert differences(saved(engine), saved(fresh)) == set()


@every_method
def test_a_resumed_method_ends_in_the_same_bits(method):
    assert_resumes_bitwise(method, ema_decay=0.9)


@pytest.mark.parametrize("method", ["dualgan-penalty", "munit"])
def test_the_estimates_of_spectral_norms_survive_a_resume(method):
    kind = DISCRIMINATOR_KINDS["multiscale-spectral" if method == "munit" else "patchgan-spectral"]
    assert any(key.endswith("._u") for key in make(method, discriminator=kind).state_dict()["D_A"])
    assert_resumes_bitwise(method, discriminator=kind)


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("method", ["cyclegan", "dualgan", "cut"])
def test_dropout_goes_on_where_it_was_by_the_ways_of_large_layers_too(method, large, monkeypatch):
    if large:
        force_the_ways(monkeypatch)
    assert_resumes_bitwise(method, size=64, depth=6, width=1, dropout=0.5)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_skip_generator_and_half_precision_go_on_where_they_were(precision):
    assert_resumes_bitwise("cyclegan", generator=SMALL_GENERATORS["skip-no-norm"], precision=precision)


# ── steps that are skipped ──────────────────────────────────────────────────────────────────────────────────


@every_method
def test_a_batch_that_is_not_finite_changes_nothing_but_what_was_drawn(method):
    engine = make(method, ema_decay=0.9)
    train(engine, range(3))
    before = copy.deepcopy(engine.state_dict())
    for side in (0, 1):
        real = batch(3)
        real[side][1, 0, 5, 5] = float("nan")
        losses = engine.step(*real)
        assert not all(torch.isfinite(loss) for loss in losses.values())
        changed = differences(before, engine.state_dict())
        assert {key for key in changed if not key.endswith(("/random", "/random/generator"))} == set()
    for index in range(4, 4 + steps_to_all(method)):
        assert all(torch.isfinite(loss) for loss in engine.step(*batch(index)).values())
    after = engine.state_dict()
    assert all(differences(before[name], after[name]) for name in engine.networks())


# ── whose gradients go where ────────────────────────────────────────────────────────────────────────────────


@every_method
@pytest.mark.parametrize("player", [GENERATORS, DISCRIMINATORS])
def test_a_players_losses_leave_no_gradients_with_the_other(method, player):
    engine = make(method)
    train(engine, range(steps_to_all(method) - 1))  # up to the step in which all move
    losses = engine.losses(*batch(7))
    assert list(losses) == [GENERATORS, *([DISCRIMINATORS] if len(engine.discriminators) else [])]
    if player not in losses:
        return
    for network in engine.networks().values():
        network.zero_grad(set_to_none=True)
    sum(losses[player].values()).backward()
    ours, others = (
        (engine.generators, engine.discriminators)
        if player == GENERATORS
        else (engine.discriminators, engine.generators)
    )
    assert all(weight.grad is None for weight in others.parameters())
    assert all(any(weight.grad is not None for weight in network.parameters()) for network in ours.values())
    assert all(weight.requires_grad for network in engine.networks().values() for weight in network.parameters())


def test_an_error_in_the_losses_leaves_no_network_frozen():
    engine = engine_of()
    with pytest.raises(RuntimeError):
        engine.generator_adversarial_loss("D_A", torch.zeros(1, 2, 16, 16))
    assert all(weight.requires_grad for weight in engine.discriminators.parameters())


@pytest.mark.parametrize("method", [name for name in METHODS if not name.endswith("-slices-r1")])
@pytest.mark.parametrize("player", [GENERATORS, DISCRIMINATORS])
def test_a_player_that_moves_alone_makes_its_losses_smaller(method, player):
    still = "discriminator_learning_rate" if player == GENERATORS else "learning_rate"
    engine = make(method, **{"learning_rate": 3e-3, "discriminator_learning_rate": 3e-3, still: 1e-12})
    losses_of, losses_by_step = engine.losses, []
    engine.losses = lambda *real: losses_by_step.append(losses_of(*real)) or losses_by_step[-1]
    for _ in range(5 * steps_to_all(method)):
        engine.step(*batch(0))
    totals = [sum(losses[player].values()).item() for losses in losses_by_step if player in losses]
    totals = totals[1:] if METHODS[method].get("clip") else totals  # the first step's weights are not clipped yet
    assert len(totals) >= 4 or player not in engine.optimisers
    assert sum(totals[-2:]) < sum(totals[:2]) or not totals


# ── what a method offers ────────────────────────────────────────────────────────────────────────────────────


@every_method
def test_losses_have_names_of_their_own_and_no_graph(method):
    engine = make(method)
    train(engine, range(steps_to_all(method) - 1))
    names = [name for losses in engine.losses(*batch(7)).values() for name in losses]
    losses = engine.step(*batch(7))
    assert len(names) == len(set(names)) and list(losses) == names
    assert all(loss.shape == () and not loss.requires_grad for loss in losses.values())


@every_method
def test_networks_have_the_names_that_checkpoints_and_plans_show(method):
    expected = NETWORKS.get(method, NETWORKS.get(METHODS[method]["type"], USUAL_NETWORKS))
    engine = make(method)
    assert set(engine.networks()) == expected
    optimised = {id(w) for optimiser in engine.optimisers.values() for w in optimiser.param_groups[0]["params"]}
    assert optimised == {id(weight) for network in engine.networks().values() for weight in network.parameters()}


@pytest.mark.parametrize(
    ("method", "ema_decay"), [*((method, 0.9) for method in METHODS), *((method, 0.0) for method in FIRST_OF_ITS_TYPE)]
)
def test_translators_map_shapes_and_come_back_from_a_checkpoint(method, ema_decay):
    engine = make(method, ema_decay=ema_decay, learning_rate=1e-2)
    train(engine, range(2 * steps_to_all(method)))
    translators = engine.translators()
    fresh = build_translators(config_of(**METHODS[method]))
    image = batch(9, count=3)[0]
    trained = {id(w) for w in engine.generators.parameters()}
    for side, contrast in (("a", "T1"), ("b", "T2")):
        network = translators[side]
        assert any(id(weight) in trained for weight in network.parameters()) == (not ema_decay)
        fresh[contrast].load_state_dict(copy.deepcopy(network.state_dict()))
        with torch.no_grad():
            expected = network.eval()(image)
            assert torch.equal(fresh[contrast](image), expected)
        network.train()
        assert expected.shape == image.shape and expected.abs().max() <= 1
        assert network.stride == fresh[contrast].stride and not fresh[contrast].training
    with torch.no_grad():
        assert not torch.equal(translators["a"](image), translators["b"](image))


@every_method
def test_a_plan_asks_for_the_losses_where_there_is_no_memory(method):
    with torch.device("meta"):
        engine = build_engine(config_of(**METHODS[method], precision="bf16"), torch.device("meta"))
    images = torch.zeros(2, 1, 16, 16, device="meta")
    for losses in engine.losses(images, images).values():
        assert all(loss.device.type == "meta" and loss.shape == () for loss in losses.values())


@every_method
def test_half_precision_stays_near_single(method):
    engines = [make(method, precision=precision) for precision in ("float32", "bf16")]
    for index in range(1 + steps_to_all(method)):
        single, half = (engine.step(*batch(index)) for engine in engines)
        for name, loss in half.items():
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, single[name], rtol=0.1, atol=0.03, msg=f"{name} in step {index}")
    for network in engines[1].networks().values():
        assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in network.parameters())


# ── which networks go with which method ─────────────────────────────────────────────────────────────────────


def admitted(method, generator):
    """Whether the rules of configurations let a method train a kind of generator."""
    suitable = SUITABLE_GENERATORS.get(METHODS[method]["type"], SUITABLE_GENERATORS["any other"])
    return SMALL_GENERATORS[generator]["type"] in suitable


PAIRS = [
    (method, generator)
    for method in FIRST_OF_ITS_TYPE
    for generator in SMALL_GENERATORS
    if admitted(method, generator) and (method == "cyclegan" or not generator.startswith("monai"))
]


def test_every_method_admits_a_kind_of_generator():
    assert {method for method, _ in PAIRS} == set(FIRST_OF_ITS_TYPE)
    for native in ("munit", "unit"):
        assert {generator for method, generator in PAIRS if method == native} == {native}
        assert {method for method, generator in PAIRS if generator == native} == {native}


@pytest.mark.parametrize(("method", "generator"), PAIRS)
def test_every_generator_a_method_admits_takes_a_step(method, generator):
    moves_all_networks(METHODS[method] | {"generator": SMALL_GENERATORS[generator]})


@pytest.mark.parametrize("kind", DISCRIMINATOR_KINDS)
@pytest.mark.parametrize("method", [*FIRST_OF_ITS_TYPE, "dualgan-penalty"])
def test_every_kind_of_discriminator_takes_a_step(method, kind):
    moves_all_networks(METHODS[method] | {"discriminator": DISCRIMINATOR_KINDS[kind]})


def moves_all_networks(options):
    engine = engine_of(**options)
    size = max(16, engine.translators()["a"].stride)
    before = copy.deepcopy({name: network.state_dict() for name, network in engine.networks().items()})
    for index in range(options.get("critic_steps", 1)):
        assert all(torch.isfinite(loss) for loss in engine.step(*batch(index, size=size)).values())
    assert all(differences(before[name], network.state_dict()) for name, network in engine.networks().items())
    assert engine.translators()["b"](batch(0, size=size)[0]).shape == (2, 1, size, size)
