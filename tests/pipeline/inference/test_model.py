import hashlib
import json
import re
import sys
import types
from dataclasses import replace

import ixi_like
import numpy as np
import pytest
import torch
from negative_model import negative_model

from networks.unet import UNet
from pipeline.config.schema import Config
from pipeline.data.statistics import CohortFingerprint, ContrastStatistics
from pipeline.engines.builders import build_generator
from pipeline.inference import model as model_module
from pipeline.inference.model import is_large, load_model, precision_on
from pipeline.inference.model_address import BY_PREFERENCE, checkpoint_at
from pipeline.inference.translator import translate
from pipeline.run_config import save_config
from pipeline.runs.checkpoint import FORMAT, CheckpointFolder
from pipeline.runs.folder import RunFolder
from pipeline.tracking.mlflow_models import _load, export_translator
from pipeline.utils.errors import UserError

CONFIG = Config.model_validate(
    {
        "name": "trial",
        "contrasts": ["T1", "T2"],
        "data": {"source": "ixi", "folder": "/home/jane/ixi"},
        "generator": {"width": 2, "depth": 4},
        "training": {"precision": "bf16"},
        "preprocess": {"axis": "coronal", "spacing_mm": {"in_plane": 1.0, "through_plane": 2.0}, "size": 64},
    }
)
STATISTICS = {name: ContrastStatistics(0.0, 100.0, integer=True) for name in ("T1", "T2")}


def checkpoint(path, *, fill=0.0, **changes):
    weights = {name: torch.full_like(value, fill) for name, value in UNet(depth=4, width=2).state_dict().items()}
    content = {
        "format": FORMAT,
        "config": CONFIG.model_dump(mode="json"),
        "facts": {name: statistics.to_json() | {"unknown": ["jane"]} for name, statistics in STATISTICS.items()},
        "translators": {"T1": weights, "T2": weights},
    }
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
    assert model.stride == 16 and model.statistics["T2"].high == 100
    assert model.precision == "float32"  # half precision is for CUDA
    assert model.origin == "cyclegan trial"


@pytest.mark.parametrize(("device", "precision"), [("cuda", "bf16"), ("cpu", "float32"), ("mps", "float32")])
def test_a_runs_networks_compute_in_one_precision_on_a_device(device, precision):
    assert precision_on(torch.device(device), CONFIG.training.precision) == precision


def test_translation_rounds_products_as_training_did(tmp_path, monkeypatch):
    rounding = []
    monkeypatch.setattr(model_module, "set_tf32", lambda device, tf32: rounding.append((device.type, tf32)))
    for tf32 in (True, False):
        training = {**CONFIG.model_dump(mode="json"), "training": {"precision": "float32", "tf32": tf32}}
        load_model(checkpoint(tmp_path / "x.pt", config=training), "cpu")
    assert rounding == [("cpu", True), ("cpu", False)]


def test_a_model_keeps_the_chain_that_it_was_trained_with(tmp_path):
    earlier = load_model(checkpoint(tmp_path / "earlier.pt"), "cpu")
    present = load_model(checkpoint(tmp_path / "present.pt", chain_version=2), "cpu")
    assert (earlier.settings.version, present.settings) == (1, replace(earlier.settings, version=2))
    for model in (earlier, present):
        assert model.metadata("T2")["settings"] == model.settings.to_json()


def test_a_runs_folder_gives_its_best_checkpoint_else_its_latest_else_the_one_before(tmp_path):
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints")
    assert [folder.folder / name for name in BY_PREFERENCE] == [folder.best, folder.latest, folder.previous]
    with pytest.raises(UserError, match="run: no such model; give a run's folder, a checkpoint"):
        checkpoint_at(tmp_path / "run")
    folder.folder.mkdir(parents=True)
    with pytest.raises(UserError, match="no checkpoint in this folder"):
        checkpoint_at(tmp_path / "run")
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "metadata.json").touch()
    with pytest.raises(UserError, match="bundle: a MONAI bundle"):
        checkpoint_at(tmp_path / "bundle")
    for path in (folder.previous, folder.latest, folder.best):  # each is worth more than those before
        path.touch()
        assert checkpoint_at(tmp_path / "run") == checkpoint_at(folder.folder) == path


def test_a_runs_folder_gives_the_checkpoint_that_its_evaluation_is_about(tmp_path):
    for fill, name in enumerate(("best", "latest")):
        checkpoint(tmp_path / "checkpoints" / f"{name}.pt", fill=float(fill))
    for wanted, fill in (("latest", 1.0), ("best", 0.0)):
        config = CONFIG.model_dump(mode="json") | {"evaluation": {"checkpoint": wanted}}
        save_config(RunFolder(tmp_path), Config.model_validate(config))
        assert first_weight(load_model(tmp_path, "cpu")) == fill
        assert first_weight(load_model(tmp_path / "checkpoints", "cpu")) == fill
    (tmp_path / "config.yaml").write_text("{")
    assert first_weight(load_model(tmp_path, "cpu")) == 0.0


@pytest.mark.parametrize("uri", ["runs:/abc/generator-T2", "models:/trial-T1-to-T2@best"])
def test_mlflow_addresses_go_to_mlflow(tmp_path, monkeypatch, uri):
    network, calls = UNet(depth=4, width=2), []
    published = load_model(checkpoint(tmp_path / "x.pt"), "cpu").metadata("T2")
    assert "jane" not in json.dumps(published)
    metadata = json.loads(json.dumps(published | {"uncertainty": {"knots": []}}))
    fake = types.SimpleNamespace(load_translator=lambda *arguments: calls.append(arguments) or (network, metadata))
    monkeypatch.setitem(sys.modules, "pipeline.tracking.mlflow_models", fake)
    model = load_model(uri, "cpu")
    assert calls == [(uri, torch.device("cpu"))]
    assert model.target(None) == "T2" and model.translators == {"T2": network}
    assert (model.stride, model.origin, model.contrasts) == (16, "cyclegan trial", ("T1", "T2"))
    assert model.settings.axis == "coronal" and model.settings.spacing_mm == (1.0, 2.0)
    assert model.statistics == {"T2": STATISTICS["T2"]} and model.calibration == {"knots": []}
    assert model.metadata("T2") == published
    metadata.pop("stride")
    with pytest.raises(UserError, match=r": its metadata is damaged or of another version \('stride'\); make it again"):
        load_model(uri, "cpu")


FACTS = {name: statistics.to_json() for name, statistics in STATISTICS.items()}
DAMAGED = [
    ({"to": "T3"}, "it makes T3 of the contrasts T1 and T2"),
    ({"contrasts": ["T2", "T2"]}, "it makes T2 of the contrasts T2 and T2"),
    ({"facts": {}}, "the intensities of T2 are missing"),
    ({"facts": {"T2": {"low": 5.0, "high": 5.0}}}, "the intensities of T2 go from 5.0 to 5.0"),
    ({"facts": {"T2": {"low": 0.0}}}, "the intensities of T2 go from 0.0 to nan"),
    ({"facts": {"T2": {"low": "0", "high": 1.0}}}, "must be real number"),
    ({"facts": ["T2"]}, "no attribute 'items'"),
    ({"stride": 0}, "its stride is 0"),
    ({"stride": "16"}, "its stride is '16'"),
    ({"settings": {"axis": "axial", "spacing_mm": None, "size": 8, "n4": False, "percentiles": None, "version": 9}},
     "its preprocessing is of version 9, and 1 to 2 are known here"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), DAMAGED)
def test_a_published_model_that_cannot_be_one_is_refused_before_any_volume(monkeypatch, changes, reason):
    metadata = negative_model().metadata("T2") | changes
    fake = types.SimpleNamespace(load_translator=lambda *_: (UNet(depth=4, width=2), metadata))
    monkeypatch.setitem(sys.modules, "pipeline.tracking.mlflow_models", fake)
    with pytest.raises(UserError, match=r"^models:/x@best: its metadata is damaged or .*; make it again") as caught:
        load_model("models:/x@best", "cpu")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        *({"facts": {"T2": FACTS["T2"]}}, {"facts": FACTS | {"T1": {"low": 1.0}}}, {"chain_version": 9}),
        *({"translators": {}}, {"config": {}}, {"translators": {"T1": {}, "T2": {}}}),
    ],
)
def test_a_checkpoint_that_cannot_translate_is_refused_in_one_line_before_any_volume(tmp_path, changes):
    message = r"x\.pt: the checkpoint is damaged or of another version \(.*; use the release .* or train again"
    with pytest.raises(UserError, match=message) as caught:
        load_model(checkpoint(tmp_path / "x.pt", **changes), "cpu")
    assert "\n" not in str(caught.value)


def test_a_published_model_knows_the_neighbours_that_its_network_sees(tmp_path, monkeypatch):
    config = {**CONFIG.model_dump(mode="json"), "preprocess": {"neighbours": 1}}
    config |= {"generator": {"type": "resnet", "width": 2, "blocks": 1}}
    network = build_generator(Config.model_validate(config)).eval()
    model = replace(negative_model(), translators={"T2": network})
    metadata = json.loads(json.dumps(model.metadata("T2")))
    export_translator(network, tmp_path / "model", stride=4, channels=3, metadata=metadata)
    exported = _load(tmp_path / "model", torch.device("cpu"), "a model")
    fake = types.SimpleNamespace(load_translator=lambda *_: (exported, metadata))
    monkeypatch.setitem(sys.modules, "pipeline.tracking.mlflow_models", fake)
    published = load_model("models:/x@best", "cpu")
    assert published.metadata("T2") == model.metadata("T2")
    source = ixi_like.ixi_t2(scale=8)
    ours, theirs = (translate(source, each, "T2").get_fdata() for each in (model, published))
    np.testing.assert_allclose(theirs, ours, atol=1e-3 * np.ptp(ours))
    assert "neighbours" not in negative_model().metadata("T2") and np.ptp(ours) > 0


def test_a_published_model_keeps_what_both_cohorts_are_like():
    sizes = dict.fromkeys(("spacing_mm", "field_mm", "head_mm"), [[1.0, 2.0]] * 3)
    fingerprints = [CohortFingerprint([core], 0.0, [0.5], 0.0, **sizes) for core in (0.0, 1.0)]
    statistics = {
        contrast: replace(STATISTICS[contrast], fingerprint=fingerprint, slices=9)
        for contrast, fingerprint in zip(("T1", "T2"), fingerprints, strict=True)
    }
    metadata = replace(negative_model(), statistics=statistics).metadata("T2")
    assert metadata["facts"]["T1"] == {"likeness": fingerprints[0].to_json()}
    facts = json.loads(json.dumps(metadata))["facts"]
    read = {contrast: ContrastStatistics.from_json(entry) for contrast, entry in facts.items()}
    assert read["T1"].fingerprint == fingerprints[0]
    assert read["T2"] == replace(STATISTICS["T2"], fingerprint=fingerprints[1])


def test_a_model_knows_the_hashes_of_its_weights_and_its_configuration(tmp_path):
    model, repeated = (load_model(checkpoint(tmp_path / "x.pt"), "cpu") for _ in range(2))
    assert model.info("T2") == repeated.info("T2")
    assert len(model.config_hash) == 12 and model.config_hash == model.metadata("T2")["config_hash"]
    other = CONFIG.model_dump(mode="json") | {"seed": 77}
    assert load_model(checkpoint(tmp_path / "y.pt", config=other), "cpu").config_hash != model.config_hash
    with torch.no_grad():
        next(repeated.translators["T2"].parameters()).view(-1)[0] += 1
    assert model.identity("T2") != repeated.identity("T2") and model.identity("T1") == repeated.identity("T1")


def test_a_large_network_is_laid_out_for_the_cpu_and_gives_the_same_to_rounding(tmp_path, monkeypatch):
    path, image = checkpoint(tmp_path / "x.pt", fill=0.01), torch.rand(2, 1, 64, 64) * 2 - 1
    plain = load_model(path, "cpu")
    monkeypatch.setattr(model_module, "ENOUGH_WORK", 0)
    laid_out = load_model(path, "cpu")
    weights = [model.translators["T2"].down[1].conv.weight for model in (plain, laid_out)]
    assert [weight.is_contiguous(memory_format=torch.channels_last) for weight in weights] == [False, True]
    assert plain.identity("T2") == laid_out.identity("T2")
    with torch.inference_mode():
        results = [model.translators["T2"](image) for model in (plain, laid_out)]
    assert results[0].std() > 0
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def test_large_is_what_the_operations_of_a_slice_say(monkeypatch):
    network = torch.nn.Conv2d(1, 4, 3, padding=1)  # 2·9·4 operations a pixel
    monkeypatch.setattr(model_module, "ENOUGH_WORK", 2 * 9 * 4 * 24 * 24)
    assert is_large(network, 20, 8) and not is_large(network, 16, 8)  # 20 pixels are padded to 24


def test_weights_that_an_earlier_release_called_otherwise_keep_their_identity(tmp_path):
    present = load_model(checkpoint(tmp_path / "x.pt"), "cpu")
    weights = {
        re.sub(r"^(down|up)\.(\d+)\.conv\.", r"\1.\2.0.", name): tensor
        for name, tensor in present.translators["T2"].state_dict().items()
    }
    translators = {"T1": weights, "T2": weights}
    earlier = load_model(checkpoint(tmp_path / "earlier.pt", translators=translators), "cpu")
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    assert earlier.identity("T2") == digest.hexdigest()[:12] != present.identity("T2")
