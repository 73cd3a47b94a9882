import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported_models import NETWORKS, exported, small_model
from network_probes import random_image

from pipeline.exporting import onnx as onnx_module
from pipeline.exporting.onnx import OPSET, export_onnx, onnx_model
from pipeline.exporting.record import model_record
from pipeline.inference.runtimes import open_model
from pipeline.inference.slice_translator import neighbours_of
from pipeline.tracking.mlflow_models import _load, export_translator
from pipeline.utils.errors import UserError


def outputs(content, *inputs):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: array for value, array in zip(session.get_inputs(), inputs, strict=True)})[0]


@pytest.mark.parametrize("kind", sorted({*NETWORKS} - {"lookup, in the volume"}))  # which "box" has as a part
def test_every_network_is_the_same_in_both_runtimes_for_any_batch_height_and_width(kind):
    model = small_model(kind)
    network, stride = model.translators["T2"], model.stride
    content = exported(kind)
    openvino = open_model(content, "openvino")
    style = torch.tensor([[1.5, -0.5, 0.25]]) if kind == "munit" else None
    for count, height, width in [(1, 2 * stride, 2 * stride), (3, 2 * stride, 5 * stride), (2, 32, 16)]:
        image = random_image(count, neighbours_of(network).channels, height, width)
        inputs = {"image": image.numpy()} | ({} if style is None else {"style": style.numpy()})
        arguments = [torch.from_numpy(value) for value in inputs.values()]
        expected = network(*arguments).numpy()
        assert expected.shape == (count, 1, height, width) and np.ptp(expected) > 0.05
        for translated in (outputs(content, *inputs.values()), openvino.run(inputs, "float32")):
            np.testing.assert_allclose(translated, expected, rtol=0, atol=1e-4)
    if style is not None:
        assert np.abs(outputs(content, image.numpy(), -style.numpy()) - expected).max() > 0.01


def test_the_file_says_what_it_is_for_and_names_no_path_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_module, "onnx_model", lambda *_: exported("lookup, neighbours"))
    model, path = small_model("lookup, neighbours"), tmp_path / "new" / "model.onnx"
    lost = export_onnx(model, "T2", path)
    assert [sentence.split(":")[0].split(" (")[0] for sentence in lost] == [
        "uncertainty maps",
        "preprocessing and the checks of a volume against the training cohort",
    ]
    made = onnx.load(path)
    assert [(each.domain, each.version) for each in made.opset_import] == [("", OPSET)]
    (image,), (translation,) = made.graph.input, made.graph.output
    for value, channels in ((image, 3), (translation, 1)):
        sizes = value.type.tensor_type.shape.dim
        assert [size.dim_param or size.dim_value for size in sizes] == ["batch", channels, "height", "width"]
    facts = {entry.key: entry.value for entry in made.metadata_props}
    assert facts["translates"] == "T1 to T2" and "[-1, 1]" in facts["input"] and "0 to 1000" in facts["output"]
    assert "the slice in the middle of 1 next to it on either side" in facts["input"]
    assert (facts["stride"], facts["neighbours"]) == ("4", "1")
    assert "percentiles 0 and 100" in facts["preprocessing"] and "version" in facts
    assert "Not for clinical use" in facts["notice"] and "Not for clinical use" in made.doc_string
    record = json.loads(facts["contrast_translation"])
    assert record["settings"] == model.settings.to_json() and record["identity"] == model.identity("T2")
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    for trace in (b"/networks/", b".py", b"site-packages"):
        assert trace not in path.read_bytes()


def test_a_model_from_mlflow_is_exported_with_its_style_within(tmp_path):
    model = small_model("munit")
    assert any("style encoder" in sentence for sentence in onnx_module.losses(model, "T2", returns=True))
    export_translator(model.translators["T2"], tmp_path / "model", stride=model.stride, metadata={})
    published = replace(model, translators={"T2": _load(tmp_path / "model", torch.device("cpu"), "a model")})
    image = random_image(2, 1, 16, 24)
    translated = outputs(onnx_model(published, "T2"), image.numpy())
    np.testing.assert_allclose(translated, model.translators["T2"](image), rtol=0, atol=1e-4)
    assert "style" not in model_record(published, "T2") and "style" in model_record(model, "T2")


def test_a_graph_that_computes_something_else_is_refused_and_no_file_is_written(tmp_path, monkeypatch):
    model, path = small_model("unet"), tmp_path / "model.onnx"
    with torch.no_grad():
        next(model.translators["T2"].parameters()).mul_(1.01)
    monkeypatch.setattr(onnx_module, "onnx_model", lambda *_: exported("unet"))
    with pytest.raises(UserError, match=r"differs from the network by .*; choose another format"):
        export_onnx(model, "T2", path)
    assert not path.exists()


def test_a_missing_package_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r'^ONNX Runtime: .*onnxscript.*pip install -e "\.\[onnx\]"'):
        export_onnx(small_model("unet"), "T2", tmp_path / "model.onnx")
