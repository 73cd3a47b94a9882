"""What a validation gives its networks: slices with their neighbours, in the precision of translations."""

import numpy as np
import pytest
import torch
from small_validation import CONTRASTS, DEVICE, case, scan, validation
from torch import nn

from networks.unet import UNet
from pipeline.evaluation.translation_writer import translate_scan
from pipeline.inference.model import TranslationModel
from transforms.neighbours import Neighbours

VALUES = np.linspace(-0.5, 0.5, 9)  # of the nine slices of a scan


class Below(nn.Module):
    """Translates a slice to the neighbour below it, and a slice without neighbours to itself."""

    neighbours = 1

    def forward(self, image):
        return image[:, :1]


@pytest.fixture
def pair(tmp_path):
    return [case(tmp_path, "one", "T1"), case(tmp_path, "two", "T2")]


@pytest.mark.parametrize("paired", [True, False])
def test_the_networks_see_a_slices_neighbours_in_the_volume(pair, paired):
    above, below = (np.tile(values[:, None, None], (1, 16, 16)) for values in (VALUES, VALUES[[0, *range(8)]]))
    scans = {"one": scan(above), "two": scan(below)}
    made = validation(pair, scans, scored_in_pairs=paired, slices=3, neighbours=Neighbours(1))
    scores = made.scores({"T2": Below(), "T1": Below()})
    if paired:
        assert scores["validation/T1_to_T2/psnr"] > 100
        assert scores["validation/T2_to_T1/psnr"] < 30
    else:  # translated back, a translation has no neighbours and stays what it was: the slice below
        cycle_error = 2 / 3 * (VALUES[1] - VALUES[0])  # of slices 0, 4 and 8
        assert scores["validation/T1_to_T2/cycle_error"] == pytest.approx(cycle_error, abs=1e-6)
    assert set(made.panels({"T2": Below(), "T1": Below()}, 2, oriented=True)) == {"T1", "T2"}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_is_validated_is_what_translates(pair, precision):
    torch.manual_seed(0)
    network = UNet(3, 4).eval()
    same = scan(np.random.default_rng(0).uniform(-1, 1, (3, 16, 16)))
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    made = validation(pair, {"one": same, "two": same}, slices=3, precision=precision)
    made.scores({"T1": nn.Identity(), "T2": network})
    model = TranslationModel(CONTRASTS, {"T2": network}, {}, {}, 8, DEVICE, precision=precision)
    translated = translate_scan(same, "T2", model, 8)
    assert torch.equal(seen[0], seen[-1]) and np.array_equal(translated, seen[0][:, 0].numpy())
    other = model.in_precision({"float32": "bf16", "bf16": "float32"}[precision])
    assert not np.array_equal(translated, translate_scan(same, "T2", other, 8))
