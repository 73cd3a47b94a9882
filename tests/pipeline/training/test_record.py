import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.training.loop import Position
from pipeline.training.record import write_run_record

CONFIG = SimpleNamespace(
    method=SimpleNamespace(type="cyclegan"), training=SimpleNamespace(batch_size=2, precision="float32")
)
CPU = torch.device("cpu")


def engine():
    """Two translators that share a layer, and a critic."""
    shared = nn.Linear(9, 10)  # 100 weights
    first, second = nn.Sequential(shared, nn.Linear(10, 1)), nn.Sequential(shared, nn.Linear(10, 1))  # 11 more each
    return SimpleNamespace(
        translators=lambda: {"a": first, "b": second},
        networks=lambda: {"G": first, "F": second, "D": nn.Linear(3, 1)},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.json"


def record(path, position):
    write_run_record(path, CONFIG, engine(), position, CPU)
    return json.loads(path.read_text())


def test_weights_that_translators_share_count_once(path):
    content = record(path, Position(step=4, seconds=2.0))
    assert content["translator_parameters"] == 122
    assert content["parameters"] == {"G": 111, "F": 111, "D": 4}


def test_steps_seconds_and_machine_are_there(path):
    content = record(path, Position(step=4, seconds=2.0, bad_steps=1))
    assert {key: content[key] for key in ("steps", "bad_steps", "seconds", "seconds_per_step", "batch_size")} == {
        "steps": 4, "bad_steps": 1, "seconds": 2.0, "seconds_per_step": 0.5, "batch_size": 2,
    }  # fmt: skip
    assert (content["device"], content["threads"], content["method"]) == ("cpu", torch.get_num_threads(), "cyclegan")


def test_evaluating_the_same_training_elsewhere_leaves_its_record_alone(path):
    content = record(path, Position(step=4, seconds=2.0))
    path.write_text(json.dumps({**content, "device": "NVIDIA H200"}))
    assert record(path, Position(step=4, seconds=2.0))["device"] == "NVIDIA H200"
    assert record(path, Position(step=8, seconds=4.0))["device"] == "cpu"


def test_a_damaged_record_is_written_anew(path):
    path.write_text("[")
    assert record(path, Position(step=4, seconds=2.0))["steps"] == 4


def test_a_run_without_steps_has_no_duration_of_one(path):
    assert record(path, Position())["seconds_per_step"] is None
