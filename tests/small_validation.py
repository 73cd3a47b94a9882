"""A validation of scans that are arrays, read from no file."""

import numpy as np
import torch

from pipeline.data.case import Case
from pipeline.data.pairs import PreparedScan, View
from pipeline.data.slice_cache import CacheOptions
from pipeline.metrics.failure_detectors import LAYERS, Cohort
from pipeline.training.validation import Validation
from pipeline.utils.errors import UserError
from transforms.slice_chain import PreprocessSettings

CONTRASTS = ("T1", "T2")
DEVICE = torch.device("cpu")
HISTOGRAMS = {"T1": [1.0] * 256, "T2": [0.0] * 128 + [1.0] + [0.0] * 127}  # T2's cohort is all at 0


COHORTS = {
    contrast: Cohort(slope * np.linspace(-0.5, 0.5, LAYERS), 0.3, np.linspace(low, low + 1, 100))
    for contrast, slope, low in (("T1", -1, -1), ("T2", 1, 0))
}


class Reader:
    """Hands out scans of given slices instead of reading files; those of "bad" cannot be read."""

    def __init__(self, scans):
        self.scans = scans

    def identity(self):
        return {}

    def scan(self, path):
        if path.stem == "bad":
            raise UserError(f"{path}: damaged")
        return self.scans[path.stem]

    def read(self, pair):
        first, second = (self.scan(case.path) for case in pair)
        forward = View(first, second.stack, second.foreground)
        backward = View(second, first.stack, first.foreground)
        return forward, backward, np.eye(4)


def scan(slices, foreground=None):
    """A scan of (N, 16, 16) slices, of which the network sees 16x16 and the field of view is 12x14."""
    slices = np.asarray(slices, np.float32)
    mask = np.ones((len(slices), 12, 14), bool) if foreground is None else foreground
    return PreparedScan(slices, (12, 14), mask, np.eye(4), PreprocessSettings("axial", None, 16, False, None))


def constant(value, count=1):
    return scan(np.full((count, 16, 16), value))


def case(tmp_path, name, contrast, subject="s"):
    return Case(subject, "", contrast, tmp_path / f"{name}.nii")


def validation(cases, scans, **options):
    cache = CacheOptions(cases[0].path.parent, 1, quiet=True)  # where nothing is kept of scans that are no files
    defaults = {"scored_in_pairs": True, "slices": 10, "histograms": HISTOGRAMS, "cohorts": COHORTS, "cache": cache}
    options = defaults | options
    return Validation(cases, CONTRASTS, reader=Reader(scans), device=DEVICE, **options)
