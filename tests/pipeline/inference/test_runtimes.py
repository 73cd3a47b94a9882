import numpy as np
import pytest
import torch

from pipeline.inference.runtimes import RuntimeNetwork
from pipeline.inference.slice_translator import translate_slices

RECORD = {"stride": 2, "identity": "abc", "neighbours": 0}
SLICES = np.linspace(-1, 1, 5 * 4 * 6, dtype=np.float32).reshape(5, 4, 6)


def translated(run, *, precision="float32", record=RECORD):
    network = RuntimeNetwork("openvino", run, record)
    return translate_slices(
        SLICES,
        network,
        np.ones(5, bool),
        device=torch.device("cpu"),
        batch_size=4,
        precision=precision,
        slice_mm=1.0,
        name="a scan",
    )


def test_slices_go_to_the_runtime_and_come_back():
    seen = []
    result = translated(lambda inputs, precision: seen.append((inputs, precision)) or -inputs["image"])
    np.testing.assert_array_equal(result, -SLICES)
    assert [(inputs.keys(), inputs["image"].shape, precision) for inputs, precision in seen] == [
        ({"image"}, (4, 1, 4, 6), "float32"),
        ({"image"}, (1, 1, 4, 6), "float32"),
    ]


def test_a_style_goes_along_and_bf16_is_the_runtimes_too():
    seen = []
    translated(
        lambda inputs, precision: seen.append((inputs["style"].tolist(), precision)) or inputs["image"],
        precision="bf16",
        record=RECORD | {"style": [0.5, -1.0]},
    )
    assert seen == [([[0.5, -1.0]], "bf16")] * 2


def test_where_its_memory_runs_out_batches_are_halved(caplog):
    class RuntimeFault(Exception):
        """Of no class that torch has."""

    def run(inputs, precision):
        if len(inputs["image"]) > 2:
            raise RuntimeFault("BFCArena: Failed to allocate memory for requested buffer of size 10")
        return -inputs["image"]

    np.testing.assert_array_equal(translated(run), -SLICES)
    assert "went on with 2" in caplog.text

    def fail(inputs, precision):
        raise RuntimeFault("Got invalid dimensions for input")

    with pytest.raises(RuntimeError, match="OpenVINO: Got invalid dimensions"):
        translated(fail)
