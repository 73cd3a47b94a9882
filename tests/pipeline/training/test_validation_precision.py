import numpy as np
import pytest
import torch
from torch import nn

from networks.unet import UNet
from pipeline.data.case import Case
from pipeline.data.pairs import PreparedScan, View
from pipeline.evaluation.translation_writer import translate_scan
from pipeline.inference.model import TranslationModel
from pipeline.training.validation import Validation
from transforms.slice_chain import PreprocessSettings

CONTRASTS = ("T1", "T2")
CPU = torch.device("cpu")


class Reader:
    """Hands out one scan as both halves of every pair."""

    def __init__(self, scan):
        self.view = View(scan, scan.stack, scan.foreground)

    def read(self, pair):
        return self.view, self.view, np.eye(4)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_is_validated_is_what_translates(tmp_path, precision):
    torch.manual_seed(0)
    network, slices = UNet(3, 4).eval(), np.random.default_rng(0).uniform(-1, 1, (3, 16, 16)).astype(np.float32)
    settings = PreprocessSettings("axial", None, 16, n4=False, percentiles=None)
    scan = PreparedScan(slices, (16, 16), np.ones(slices.shape, bool), np.eye(4), settings)
    validation = Validation(
        [Case("s", "", contrast, tmp_path / contrast) for contrast in CONTRASTS],
        CONTRASTS,
        scored_in_pairs=True,
        reader=Reader(scan),
        slices=3,
        histograms={contrast: [1.0] * 256 for contrast in CONTRASTS},
        device=CPU,
        precision=precision,
    )
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    validation.scores({"T1": nn.Identity(), "T2": network})
    model = TranslationModel(CONTRASTS, {"T2": network}, {}, {}, 8, CPU, precision=precision)
    translated = translate_scan(scan, "T2", model, 8, "a scan")
    assert torch.equal(seen[0], seen[1]) and np.array_equal(translated, seen[0][:, 0].numpy())
    other = model.in_precision({"float32": "bf16", "bf16": "float32"}[precision])
    assert not np.array_equal(translated, translate_scan(scan, "T2", other, 8, "a scan"))
