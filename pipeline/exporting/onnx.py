"""A trained network as an ONNX model, for whatever reads the format, or as OpenVINO's: a graph (.xml) and a .bin."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from pipeline.exporting.agreement import require_agreement
from pipeline.exporting.program import exported_program, silence
from pipeline.exporting.record import NOTICE, file_metadata, losses, style_of
from pipeline.inference.model import TranslationModel
from pipeline.inference.runtimes import IMAGE, SECTION, STYLE, TRANSLATION, open_model, required_package
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write, require_writable, write_together

OPSET = 18  # of ONNX 1.13 (2022): the one that torch makes without converting
AXES = {IMAGE: ("batch", None, "height", "width"), TRANSLATION: ("batch", None, "height", "width")}  # names, if dynamic


def export_onnx(model: TranslationModel, target: str, output: Path) -> list[str]:
    """Write the network that makes `target` as an ONNX model; return what the file lacks, a sentence each.

    Raises:
        UserError: a package is missing, ONNX Runtime computes something else, or the file cannot be written.
    """
    content = onnx_model(model, target)
    require_agreement(model, target, open_model(content, "onnxruntime").run, "ONNX Runtime's translation")
    atomic_write(output, lambda stream: stream.write(content))
    return losses(model, target, returns=True)


def export_openvino(model: TranslationModel, target: str, output: Path) -> list[str]:
    """Write the network that makes `target` as `output` (.xml) and a .bin; otherwise as `export_onnx`.

    The graph is read from the ONNX model by OpenVINO's own reader, which sends no statistics of use, as
    `openvino.convert_model` does. Weights stay float32. Refused as well: a .bin that is there without its .xml.
    """
    bin_path = output.with_suffix(".bin")
    require_writable(output, bin_path)
    if bin_path.exists() and not output.exists():
        raise UserError(
            f"{bin_path}: is there without {output.name}, and would be replaced; remove it, or choose another OUT"
        )
    openvino = required_package("openvino", "openvino")
    graph = openvino.Core().read_model(onnx_model(model, target))
    for key, value in file_metadata(model, target).items():
        graph.set_rt_info(value, [SECTION, key])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(graph, str(path), compress_to_fp16=False)
        require_agreement(model, target, open_model(path, "openvino").run, "OpenVINO's translation")
        graph_bytes, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    write_together({bin_path: lambda stream: stream.write(weights), output: lambda stream: stream.write(graph_bytes)})
    return losses(model, target, returns=True)


def onnx_model(model: TranslationModel, target: str) -> bytes:
    """Return an ONNX model, checked: an image (batch, C, height, width) -> its translation (batch, 1, height, width).

    A network with a style (MUNIT) takes it as a second input, (1, style_dim). Raises UserError as `export_onnx`.
    """
    onnx = required_package("onnx", "onnxruntime")
    required_package("onnxscript", "onnxruntime")
    program = exported_program(model, target)
    names = [IMAGE, *([STYLE] if style_of(model.translators[target]) is not None else [])]
    with silence():
        exported: Any = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, input_names=names, output_names=[TRANSLATION], verbose=False
        )
    proto = exported.model_proto
    _tidy(proto)
    proto.doc_string = NOTICE
    onnx.helper.set_model_props(proto, file_metadata(model, target))
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def _tidy(proto: Any) -> None:
    """Name the sizes that vary, and remove where on this machine the code of each node lay."""
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, AXES.get(value.name, ()), strict=False):
            if name is not None:
                axis.dim_param = name
    del graph.value_info[:]  # their sizes have names of the tracer's
    for message in (proto, graph, *graph.input, *graph.output, *graph.initializer, *graph.node, *proto.functions):
        del message.metadata_props[:]
        message.doc_string = ""
    for function in proto.functions:
        del function.value_info[:]
        for node in function.node:
            del node.metadata_props[:]
