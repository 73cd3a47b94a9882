import pickle
import sys
import types

import pytest
import torch
from torch import nn

import pipeline.engines
from pipeline.errors import UserError
from pipeline.model import FORMAT, TranslationModel, chain_settings, choose_device, load_model

CONFIG = {
    "name": "trial",
    "contrasts": ["T1", "T2"],
    "method": {"type": "cyclegan"},
    "training": {"precision": "bf16"},
    "preprocess": {
        "axis": "coronal",
        "spacing_mm": {"in_plane": 1.0, "through_plane": 2.0},
        "size": 64,
        "n4": False,
        "scaling": "percentiles",
        "percentiles": [0.5, 99.5],
    },
}
FACTS = {name: {"low": 0.0, "high": 100.0, "integer": True} for name in ("T1", "T2")}


class Network(nn.Module):
    stride = 16

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(1, 1, 3, padding=1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, slices):
        return self.dropout(self.last(slices))


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    monkeypatch.setattr(
        pipeline.engines,
        "build_translators",
        lambda config: {to: Network() for to in config["contrasts"]},
        raising=False,
    )


def checkpoint(path, *, fill=0.0, **changes):
    weights = {name: torch.full_like(value, fill) for name, value in Network().state_dict().items()}
    content = {"format": FORMAT, "config": CONFIG, "facts": FACTS, "translators": {"T1": weights, "T2": weights}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content | changes, path)
    return path


def first_weight(model):
    return next(model.translators["T2"].parameters()).flatten()[0].item()


def test_a_checkpoint_gives_both_directions_ready_to_translate(tmp_path):
    model = load_model(checkpoint(tmp_path / "x.pt", fill=0.25), "cpu")
    assert set(model.translators) == {"T1", "T2"} and model.contrasts == ("T1", "T2")
    assert first_weight(model) == 0.25
    assert not any(module.training for network in model.translators.values() for module in network.modules())
    assert not any(weight.requires_grad for weight in model.translators["T1"].parameters())
    assert model.stride == 16 and model.facts["T2"]["high"] == 100
    assert model.precision == "float32"  # half precision is for CUDA
    assert "trial" in model.origin


def test_a_run_folder_gives_its_best_checkpoint_else_its_latest(tmp_path):
    checkpoint(tmp_path / "latest.pt", fill=1.0)
    assert first_weight(load_model(tmp_path, "cpu")) == 1.0
    checkpoint(tmp_path / "best.pt", fill=2.0)
    assert first_weight(load_model(str(tmp_path), "cpu")) == 2.0
    assert first_weight(load_model(tmp_path / "latest.pt", "cpu")) == 1.0


@pytest.mark.parametrize("uri", ["runs:/abc/generator-T2", "models:/trial-T1-to-T2@best"])
def test_mlflow_addresses_go_to_mlflow(monkeypatch, uri):
    about = {"contrasts": ["T1", "T2"], "to": "T2", "facts": FACTS, "stride": 16, "origin": "cyclegan trial"}
    about["preprocess"] = CONFIG["preprocess"]
    asked = []
    fake = types.SimpleNamespace(load_translator=lambda *given: asked.append(given) or (Network().eval(), about))
    monkeypatch.setitem(sys.modules, "pipeline.mlflow_models", fake)
    model = load_model(uri, "cpu")
    assert asked == [(uri, torch.device("cpu"))]
    assert model.target(None) == "T2" and model.stride == 16 and model.origin == "cyclegan trial"


def test_preprocessing_is_the_one_of_training():
    assert chain_settings(CONFIG["preprocess"]) == {
        "axis": "coronal",
        "spacing_mm": (1.0, 2.0),
        "size": 64,
        "n4": False,
        "percentiles": (0.5, 99.5),
    }
    changed = CONFIG["preprocess"] | {"spacing_mm": None, "scaling": "type_range"}
    assert chain_settings(changed)["spacing_mm"] is None
    assert chain_settings(changed)["percentiles"] is None


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="none: no such model; give a run folder, a checkpoint"):
        load_model(tmp_path / "none", "cpu")
    with pytest.raises(UserError, match=r"holds no best\.pt or latest\.pt"):
        load_model(tmp_path, "cpu")


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 not a zip", pickle.dumps({"format": FORMAT})])
def test_other_files_are_no_checkpoints(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pt: not a checkpoint"):
        load_model(tmp_path / "x.pt", "cpu")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = checkpoint(tmp_path / "x.pt")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"x\.pt: not a checkpoint, or a damaged one"):
        load_model(path, "cpu")


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"format": FORMAT, "config": Payload()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_model(tmp_path / "x.pt", "cpu")
    assert not (tmp_path / "owned").exists()


def test_foreign_and_future_checkpoints_are_told_apart(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="not a checkpoint of this tool"):
        load_model(tmp_path / "foreign.pt", "cpu")
    with pytest.raises(UserError, match="checkpoint format 99, this release reads 1"):
        load_model(checkpoint(tmp_path / "future.pt", format=99), "cpu")


@pytest.mark.parametrize("changes", [{"translators": {}}, {"config": {}}, {"translators": {"T1": {}, "T2": {}}}])
def test_a_checkpoint_with_parts_missing_is_one_line(tmp_path, changes):
    with pytest.raises(UserError, match=r"x\.pt: the checkpoint is damaged or of another version") as caught:
        load_model(checkpoint(tmp_path / "x.pt", **changes), "cpu")
    assert "\n" not in str(caught.value)


def model_making(*contrasts):
    return TranslationModel(("T1", "T2"), {to: Network() for to in contrasts}, {}, {}, 16, torch.device("cpu"))


def test_the_contrast_may_be_left_out_only_where_there_is_one():
    assert model_making("T2").target(None) == "T2"
    assert model_making("T1", "T2").target("T1") == "T1"
    with pytest.raises(UserError, match="the model makes T1 and T2; choose one with --to"):
        model_making("T1", "T2").target(None)


def test_a_contrast_that_the_model_does_not_make_is_refused_with_those_it_does():
    with pytest.raises(UserError, match="does not make 'PD' but T1 and T2"):
        model_making("T1", "T2").target("PD")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="device 'cuda' is not available here; use auto or one of: cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
