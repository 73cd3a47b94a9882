"""Weights of another run, by method: what is taken over and what begins afresh."""

import copy
from functools import partial

import pytest
import torch
from small_engine import MUNIT, UNIT, batch, config_of, differences, engine_of, saved

from pipeline.dry_run import meta_engine
from pipeline.engines.builders import build_engine
from pipeline.runs.checkpoint import CheckpointFolder, load_checkpoint
from pipeline.runs.folder import RunFolder
from pipeline.training.initial_weights import read_initial_weights
from pipeline.utils.errors import UserError
from transforms.slice_chain import CHAIN_VERSION

METHODS = {
    "cyclegan": {"type": "cyclegan", "pool_size": 4},
    "averaged": {"type": "cyclegan", "ema_decay": 0.9},
    "dualgan": {"type": "dualgan", "adversarial": "wasserstein", "clip": 0.01, "critic_steps": 2},
    "munit": MUNIT,
    "unit": UNIT,
    "cut": {"type": "cut", "head_width": 4, "patches": 8},
    "spectral": {"type": "cyclegan", "discriminator": {"width": 2, "layers": 1, "spectral_norm": True}},
}


def trained(**options):
    """An engine that has made three steps."""
    engine = engine_of(**options)
    for index in range(3):
        engine.step(*batch(index))
    return engine


def checkpoint(folder, engine, config):
    """A checkpoint of a run, with as much as a start reads."""
    CheckpointFolder(folder / "checkpoints").save(state_of(engine, config), best=("T1", "T2"))
    return folder


def state_of(engine, config):
    return {
        "config": config.model_dump(mode="json"),
        "chain_version": CHAIN_VERSION,
        "engine": engine.state_dict(),
        "position": {"step": 3},
        "split": {"train": {"T1": ["s1/2020"], "T2": ["s2"]}, "validation": [], "test": ["s3"]},
        "translators": {
            to: engine.translators()[side].state_dict() for side, to in zip("ab", ("T1", "T2"), strict=True)
        },
    }


def start(tmp_path, theirs, ours):
    """Read the weights of a run of one small configuration for a run of another."""
    config = config_of(**theirs)
    source = checkpoint(tmp_path / "source", trained(**theirs), config)
    other = config_of(**ours)
    return read(source, tmp_path, other)


def read(source, tmp_path, config):
    """Read the weights of a run or checkpoint for a run of a configuration."""
    settings = config.model_dump(mode="json")
    return read_initial_weights(source, RunFolder(tmp_path / "run"), settings, partial(meta_engine, config))


@pytest.mark.parametrize("method", METHODS)
def test_what_was_learnt_is_taken_over_and_the_rest_is_fresh(method, tmp_path):
    options = METHODS[method]
    initial_weights = start(tmp_path, options, options)
    fresh, source = engine_of(weights_seed=5, **options), initial_weights.weights
    before = saved(fresh)
    fresh.load_pretrained(initial_weights.weights)
    after = saved(fresh)
    learnt = {"averaged", "averaged_steps", *fresh.transferable_components()} & after.keys()
    assert {"G", "F", "D_A", "D_B"} <= learnt or {"A", "B", "D_A", "D_B"} <= learnt
    assert differences({name: after[name] for name in learnt}, {name: source[name] for name in learnt}) == set()
    rest = after.keys() - learnt
    assert rest >= {"optimiser_generators", "optimiser_discriminators"}
    assert differences({name: after[name] for name in rest}, {name: before[name] for name in rest}) == set()
    real_a, _ = batch(7)
    translated = fresh.translators()["b"](real_a)
    theirs = build_engine(config_of(**options), torch.device("cpu"))
    theirs.load_state_dict(source)
    assert torch.equal(translated, theirs.translators()["b"](real_a))


def test_a_checkpoint_with_a_u_nets_earlier_names_of_weights_may_be_begun_from(tmp_path):
    engine, config = trained(**METHODS["averaged"]), config_of(**METHODS["averaged"])
    expected = copy.deepcopy(engine.state_dict())
    earlier = engine.state_dict()
    for name in ("G", "F", "averaged"):
        earlier[name] = {
            key.replace(".conv.", ".0.").replace(".adn.N.", ".1."): value for key, value in earlier[name].items()
        }
    assert "down.1.1.bias" in earlier["G"] and "F.up.0.0.weight" in earlier["averaged"]
    engine.state_dict = lambda: earlier
    initial_weights = read(checkpoint(tmp_path / "source", engine, config), tmp_path, config)
    for load in ("load_pretrained", "load_state_dict"):
        fresh = engine_of(weights_seed=5, **METHODS["averaged"])
        getattr(fresh, load)(initial_weights.weights)
        assert not differences({name: fresh.state_dict()[name] for name in ("G", "F", "averaged")},
                               {name: expected[name] for name in ("G", "F", "averaged")})  # fmt: skip


@pytest.mark.parametrize("method", ["cyclegan", "averaged", "munit", "unit"])
def test_each_direction_begins_from_its_own_best_translator(method, tmp_path):
    options = METHODS[method]
    engine, config, checkpoints = engine_of(**options), config_of(**options), CheckpointFolder(tmp_path / "checkpoints")
    # T1's translator is the best after one step, T2's after three.
    for index, best in enumerate((("T1", "T2"), (), ("T2",))):
        engine.step(*batch(index))
        if best:
            checkpoints.save(copy.deepcopy(state_of(engine, config)), best=best)
    earlier = load_checkpoint(checkpoints.best)["translators"]["T1"]
    newest, now = saved(engine), copy.deepcopy(state_of(engine, config)["translators"])
    assert differences(earlier, now["T1"])
    for path, expected in ((checkpoints.best, earlier), (checkpoints.latest, now["T1"])):
        begun = engine_of(weights_seed=5, **options)
        read(path, tmp_path, config).load_into(begun)
        translators = {side: network.state_dict() for side, network in begun.translators().items()}
        # The two ways of UNIT share weights, so that they are of one step.
        assert differences(translators["a"], now["T1"] if method == "unit" else expected) == set()
        assert differences(translators["b"], now["T2"]) == set()
        state = saved(begun)
        assert all(differences(state[name], newest[name]) == set() for name in ("D_A", "D_B"))
        if method == "averaged":
            assert differences(state["G"], newest["G"]) == set()  # not its average
            assert differences(state["F"], earlier if path == checkpoints.best else newest["F"]) == set()


def test_cut_takes_its_heads_and_munit_its_mean_styles_along():
    assert {"H_G", "H_F"} <= engine_of(**METHODS["cut"]).transferable_components().keys()
    assert {"style_A", "style_B"} <= engine_of(**METHODS["munit"]).transferable_components().keys()


def test_an_average_that_the_other_run_did_not_keep_begins_with_its_weights(tmp_path):
    initial_weights = start(tmp_path, METHODS["cyclegan"], METHODS["averaged"])
    engine = engine_of(weights_seed=5, **METHODS["averaged"])
    engine.load_pretrained(initial_weights.weights)
    state = saved(engine)
    assert state["averaged_steps"] == 0
    averaged = engine.ema.networks.state_dict()
    assert differences(averaged, engine.generators.state_dict()) == set()
    assert differences(state["G"], initial_weights.weights["G"]) == set()


def test_another_method_with_the_same_networks_may_begin_from_them(tmp_path):
    initial_weights = start(tmp_path, METHODS["cyclegan"], {"type": "dualgan", "adversarial": "least_squares"})
    assert initial_weights.record["method"] == "cyclegan"
    assert (initial_weights.record["run"], initial_weights.record["step"], initial_weights.subjects) == (
        "small",
        3,
        {"s1", "s2"},
    )


def test_what_does_not_fit_is_listed_with_shapes_and_settings(tmp_path):
    with pytest.raises(UserError) as caught:
        start(tmp_path, {"width": 3}, {"width": 4})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("training.start_from: the networks of ") and "are not those of this" in lines[0]
    first, second, heading, key = (line.strip() for line in lines[1:])
    shapes = "shape torch.Size([3, 1, 4, 4]) from checkpoint, the shape in current model is torch.Size([4, 1, 4, 4])"
    assert first.startswith("G: size mismatch for ") and shapes in first and second.startswith("F: ")
    assert (heading, key) == ("settings that differ:", "generator.width: 3 there, 4 here")


def test_a_method_with_other_networks_is_refused_by_their_names(tmp_path):
    with pytest.raises(UserError) as caught:
        start(tmp_path, METHODS["cyclegan"], METHODS["cut"])
    assert "H_G: not there" in str(caught.value) and "method.type: 'cyclegan' there, 'cut' here" in str(caught.value)


def test_slices_of_another_version_of_the_chain_are_warned_of(tmp_path, capsys):
    options = METHODS["cyclegan"]
    start(tmp_path, options, options)
    assert capsys.readouterr().err == ""
    path = tmp_path / "source" / "checkpoints" / "best.pt"
    state = torch.load(path, weights_only=True)
    del state["chain_version"]  # as in checkpoints that name none: version 1
    state["config"]["preprocess"]["percentiles"] = [1.0, 99.0]
    torch.save(state, path)
    read(path, tmp_path, config_of(**options))
    assert capsys.readouterr().err == (
        f"warning: training.start_from: {path} was trained on slices made otherwise: preprocess.percentiles "
        f"[1.0, 99.0] there, [0.5, 99.5] here; the chain's version 1 there, {CHAIN_VERSION} here\n"
    )


def test_a_checkpoint_of_another_version_is_one_line(tmp_path):
    source = tmp_path / "source"
    CheckpointFolder(source / "checkpoints").save({"config": {}}, best=("T1", "T2"))
    with pytest.raises(UserError, match=r"best\.pt: damaged, or of another version \("):
        read(source, tmp_path, config_of())
