import json

import numpy as np
import pytest
import torch
from exported_models import small_model
from network_probes import random_image

from pipeline.exporting.program import export_program
from pipeline.inference.model import load_model
from pipeline.utils.errors import UserError


def test_a_torch_program_runs_without_our_classes_and_knows_its_model(tmp_path):
    model, path, style = small_model("munit"), tmp_path / "model.pt2", torch.tensor([[1.0, 0.0, -1.0]])
    lost = export_program(model, "T2", path)
    assert any("does not take this format" in sentence for sentence in lost)
    files = {"metadata.json": ""}
    graph = torch.export.load(path, extra_files=files).module()
    facts = json.loads(files["metadata.json"])
    assert facts["translates"] == "T1 to T2" and facts["contrast_translation"]["identity"] == model.identity("T2")
    for count, height, width in [(1, 2 * model.stride, 2 * model.stride), (3, 24, 40)]:
        image = random_image(count, 1, height, width)
        expected = model.translators["T2"](image, style)
        assert np.ptp(expected.numpy()) > 0.05
        torch.testing.assert_close(graph(image, style), expected, rtol=0, atol=1e-4)
    assert b".py" not in path.read_bytes()
    with pytest.raises(UserError, match=r"model\.pt2: a torch program is for other programs; give the run's folder"):
        load_model(path, "cpu")
