import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from networks.munit import AutoEncoder, StyleTranslator
from pipeline.training.run_record import mark_unfinished, write_run_record
from pipeline.training.schedule import TrainerState

SETTINGS = {"method": "cyclegan", "batch_size": 2, "precision": "float32", "configuration": "0f3a"}


def engine():
    """Two translators that share a layer, and a critic."""
    shared = nn.Linear(9, 10)  # 100 weights
    first, second = nn.Sequential(shared, nn.Linear(10, 1)), nn.Sequential(shared, nn.Linear(10, 1))  # 11 more each
    return SimpleNamespace(
        device=torch.device("cpu"),
        translators=lambda: {"a": first, "b": second},
        networks=lambda: {"G": first, "F": second, "D": nn.Linear(3, 1)},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.json"


def record(path, position):
    write_run_record(path, engine(), position, **SETTINGS, warnings=["mode collapse"])
    return json.loads(path.read_text())


def test_steps_seconds_machine_and_weights_that_translators_share_once_are_there(path):
    content = record(path, TrainerState(step=4, seconds=2.0, bad_steps=1))
    assert content["translator_parameters"] == 122
    assert content["parameters"] == {"G": 111, "F": 111, "D": 4}
    assert content["warnings"] == ["mode collapse"]
    assert {key: content[key] for key in ("steps", "bad_steps", "seconds", "seconds_per_step", "batch_size")} == {
        "steps": 4, "bad_steps": 1, "seconds": 2.0, "seconds_per_step": 0.5, "batch_size": 2,
    }  # fmt: skip
    assert (content["device"], content["threads"], content["method"]) == ("cpu", torch.get_num_threads(), "cyclegan")


def test_evaluating_the_same_training_elsewhere_leaves_its_record_alone(path):
    content = record(path, TrainerState(step=4, seconds=2.0))
    path.write_text(json.dumps({**content, "device": "NVIDIA H200"}))
    assert record(path, TrainerState(step=4, seconds=2.0))["device"] == "NVIDIA H200"
    assert record(path, TrainerState(step=8, seconds=4.0))["device"] == "cpu"


def test_a_damaged_record_is_written_anew(path):
    path.write_text("[")
    assert record(path, TrainerState(step=4, seconds=2.0))["steps"] == 4


def test_a_run_without_steps_has_no_duration_of_one(path):
    assert record(path, TrainerState())["seconds_per_step"] is None


def test_style_encoders_are_trained_and_take_no_part_in_a_translation(path):
    first, second = (AutoEncoder(width=4, downs=1, blocks=1, style_downs=2, style_dim=3, mlp_width=8) for _ in range(2))
    translators = {
        "a": StyleTranslator(second.content_encoder, first),
        "b": StyleTranslator(first.content_encoder, second),
    }
    networks = {"A": first, "B": second}
    munit = SimpleNamespace(device=torch.device("cpu"), translators=lambda: translators, networks=lambda: networks)
    write_run_record(path, munit, TrainerState(), **SETTINGS)
    content = json.loads(path.read_text())
    all_weights, style = (sum(weight.numel() for weight in part.parameters()) for part in (first, first.style_encoder))
    assert content["translator_parameters"] == 2 * (all_weights - style)
    assert content["parameters"] == {"A": all_weights, "B": all_weights}


def test_the_end_is_taken_back_and_what_training_took_is_kept(path):
    content = record(path, TrainerState(step=4, seconds=2.0))
    assert content.pop("configuration") == "0f3a"
    mark_unfinished(path)
    assert json.loads(path.read_text()) == content
    assert record(path, TrainerState(step=4, seconds=2.0))["configuration"] == "0f3a"


def test_a_record_of_what_trains_on_says_that_the_scores_are_of_earlier_networks(path):
    content = record(path, TrainerState(step=4, seconds=2.0))
    for _ in range(2):
        mark_unfinished(path, trains=True)
        outdated = json.loads(path.read_text())
        assert outdated.pop("scores_outdated") is True
        assert outdated == {key: value for key, value in content.items() if key != "configuration"}
    assert "scores_outdated" not in record(path, TrainerState(step=8, seconds=4.0))


def test_where_there_is_no_record_there_is_no_end_to_take_back(path):
    mark_unfinished(path)
    mark_unfinished(path, trains=True)
    assert not path.exists()
    path.with_name("scores.json").touch()  # of an evaluation that was stopped before its record
    mark_unfinished(path, trains=True)
    assert json.loads(path.read_text()) == {"scores_outdated": True}
