"""A trained network as an OpenVINO model: a graph (.xml) and its weights (.bin)."""

import tempfile
from pathlib import Path

from pipeline.exporting.agreement import require_agreement
from pipeline.exporting.onnx import onnx_model
from pipeline.exporting.record import file_metadata, losses
from pipeline.inference.model import TranslationModel
from pipeline.inference.runtimes import SECTION, open_openvino, required_package
from pipeline.utils.files import write_together


def export_openvino(model: TranslationModel, target: str, output: Path) -> list[str]:
    """Write the network that makes `target` as `output` (.xml) and a .bin; return what they lack, a sentence each.

    The graph is read from the ONNX model by OpenVINO's own reader, which sends no statistics of use, as
    `openvino.convert_model` does. Weights stay float32.

    Raises:
        UserError: a package is missing, OpenVINO computes something else, or a file cannot be written.
    """
    openvino = required_package("openvino", "openvino")
    content = onnx_model(model, target)
    graph = openvino.Core().read_model(content)
    for key, value in file_metadata(model, target).items():
        graph.set_rt_info(value, [SECTION, key])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(graph, str(path), compress_to_fp16=False)
        exported = open_openvino(path)
        require_agreement(model, target, lambda inputs: exported.run(inputs, "float32"), "OpenVINO's translation")
        graph_bytes, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    write_together(
        {
            output.with_suffix(".bin"): lambda stream: stream.write(weights),
            output: lambda stream: stream.write(graph_bytes),
        }
    )
    return losses(model, target, returns=True)
