import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from exported_models import exported, small_model
from network_probes import random_image

from pipeline.exporting import backends as backends_module
from pipeline.exporting.backends import LEAST_VOLUMES, _seconds, automatic, in_backend, may_gain
from pipeline.inference import model as model_module
from pipeline.inference.runtimes import RUNTIMES, backend_of, computed_by, open_model


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def exported_once(monkeypatch):
    """Have the small models, which are told apart by their weights, exported once."""
    kinds = {small_model(kind).identity("T2"): kind for kind in ("unet", "munit")}
    monkeypatch.setattr(backends_module, "onnx_model", lambda model, to: exported(kinds[model.identity(to)]))


def test_on_one_thread_openvino_is_given_fixed_sizes_alone(one_thread):
    """Compiled for any batch, it gave wrong images of a network with small feature maps (2026.4)."""
    model = small_model("unet")
    network, opened = model.translators["T2"], open_model(exported("unet"), "openvino")
    for count, side in [(3, 8), (1, 8), (4, 8), (2, 24), (3, 8)]:
        image = random_image(count, 1, side, side)
        translated = opened.run({"image": image.numpy()}, "float32")
        np.testing.assert_allclose(translated, network(image).numpy(), rtol=0, atol=1e-5)
    compiled = opened.run.compiled
    assert {key: batch for key, (batch, _) in compiled.items()} == {("float32", 1, 8, 8): 4, ("float32", 1, 24, 24): 2}
    assert not any(graph.input(0).partial_shape.is_dynamic for _, graph in compiled.values())


def test_openvino_may_gain_for_many_volumes_by_a_large_unet_in_float32_alone(one_thread, monkeypatch):
    monkeypatch.setattr(model_module, "ENOUGH_WORK", 1e4)
    unet = small_model("unet")
    assert may_gain(unet, "T2", LEAST_VOLUMES)
    assert not may_gain(small_model("lookup, neighbours"), "T2", 1000)  # a network of another kind
    assert not may_gain(small_model("box"), "T2", 1000)  # the box is a U-Net, but what corrects it is not
    assert may_gain(small_model("lookup, in the volume"), "T2", 1000)  # a U-Net that starts from a lookup
    assert not may_gain(unet, "T2", LEAST_VOLUMES - 1)
    assert not may_gain(unet.in_precision("bf16"), "T2", 1000)
    assert not may_gain(replace(unet, device=torch.device("cuda")), "T2", 1000)
    torch.set_num_threads(2)
    assert not may_gain(unet, "T2", 2 * LEAST_VOLUMES - 1)
    assert may_gain(unet, "T2", 2 * LEAST_VOLUMES)
    monkeypatch.setattr(model_module, "ENOUGH_WORK", 1e12)
    assert not may_gain(unet, "T2", 1000)


@pytest.mark.parametrize("quicker", ["torch", "openvino"])
def test_the_quicker_of_two_translates(one_thread, monkeypatch, quicker):
    monkeypatch.setattr(model_module, "ENOUGH_WORK", 1e4)
    model = small_model("unet")

    def seconds(timed, *more):
        assert _seconds(timed, *more) > 0
        return float((timed is model) == (quicker == "openvino"))

    monkeypatch.setattr(backends_module, "_seconds", seconds)
    chosen = automatic(model, "T2", LEAST_VOLUMES)
    assert (chosen is model) == (quicker == "torch") and backend_of(chosen.translators["T2"]) == quicker
    assert automatic(model, "T2", LEAST_VOLUMES - 1) is model


def test_only_an_installed_runtime_is_chosen_and_none_is_changed(monkeypatch):
    monkeypatch.setattr(model_module, "ENOUGH_WORK", 1e4)
    exported = in_backend(small_model("unet"), "T2", "onnxruntime")
    assert not may_gain(exported, "T2", 1000)
    assert computed_by(exported.translators["T2"]).startswith("ONNX Runtime 1.")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert not RUNTIMES["openvino"].is_installed and not may_gain(small_model("unet"), "T2", 1000)


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_style_goes_along(backend):
    model = small_model("munit")
    other, image = in_backend(model, "T2", backend), random_image(2, 1, 16, 24)
    np.testing.assert_allclose(other.translators["T2"](image), model.translators["T2"](image), rtol=0, atol=1e-4)
    model.translators["T2"].set_style(-model.translators["T2"].style[0])
    assert np.abs(other.translators["T2"](image) - model.translators["T2"](image)).max() > 0.01
