import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data.case import Case
from pipeline.data.pairs import PreparedScan, View
from pipeline.training.validation import Validation
from transforms.neighbours import Neighbours
from transforms.slice_chain import PreprocessSettings

CONTRASTS = ("T1", "T2")
VALUES = np.linspace(-0.5, 0.5, 9)  # of the nine slices of a scan
SETTINGS = PreprocessSettings("axial", None, 16, n4=False, percentiles=None)


class Below(nn.Module):
    """Translates a slice to the neighbour below it, and a slice without neighbours to itself."""

    neighbours = 1

    def forward(self, image):
        return image[:, :1]


class Reader:
    """Hands out a scan whose slices have the values of `VALUES`, and one that has the slice below in each place."""

    def __init__(self):
        slices = [np.broadcast_to(values[:, None, None], (9, 16, 16)) for values in (VALUES, VALUES[[0, *range(8)]])]
        mask = np.ones((9, 12, 14), bool)
        self.scans = [PreparedScan(images.astype(np.float32), (12, 14), mask, np.eye(4), SETTINGS) for images in slices]

    def scan(self, path):
        return self.scans[CONTRASTS.index(path.name)]

    def read(self, pair):
        first, second = self.scans
        return View(first, second.stack, second.foreground), View(second, first.stack, first.foreground), np.eye(4)


@pytest.mark.parametrize("paired", [True, False])
def test_the_networks_see_a_slices_neighbours_in_the_volume(tmp_path, paired):
    validation = Validation(
        [Case("s", "", contrast, tmp_path / contrast) for contrast in CONTRASTS],
        CONTRASTS,
        scored_in_pairs=paired,
        reader=Reader(),
        slices=3,
        neighbours=Neighbours(1),
        histograms={contrast: [1.0] * 256 for contrast in CONTRASTS},
        device=torch.device("cpu"),
    )
    networks = {"T2": Below(), "T1": Below()}
    scores = validation.scores(networks)
    if paired:
        assert scores["validation/T1_to_T2/psnr"] > 100
        assert scores["validation/T2_to_T1/psnr"] < 30
    else:  # translated back, a translation has no neighbours and stays what it was: the slice below
        cycle_error = 2 / 3 * (VALUES[1] - VALUES[0])  # of slices 0, 4 and 8
        assert scores["validation/T1_to_T2/cycle_error"] == pytest.approx(cycle_error, abs=1e-6)
    assert set(validation.panels(networks, 2, oriented=True)) == {"T1", "T2"}
