from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.data.case import Case
from pipeline.data.splits import CohortSplit
from pipeline.planning import durations as work_estimate
from pipeline.planning.cohort import CohortEstimates
from pipeline.planning.durations import cpu_work_text

SHAPE, AFFINE = (200, 250, 160), np.diag([1.0, 1.0, 1.25, 1.0])  # 8 million voxels
OTHER = (200, 250, 150), AFFINE


@pytest.fixture(autouse=True)
def seconds(monkeypatch):
    """Of a million voxels, in round numbers: 1 s to register, 0.25 to read, 0.5 to draw, 1 a system and protocol."""
    for name, value in {"READ_S": 0.25, "REGISTER_S": 1.0, "DRAW_S": 0.5, "OWN_S": 1.0}.items():
        monkeypatch.setattr(work_estimate, name, value)
    monkeypatch.setattr(work_estimate, "PUBLISHED_S", {"syndiff": 1.0, "selfrdb": 1.0, "reggan": 1.0})


@dataclass(frozen=True)
class TwoGrids(CohortEstimates):
    """Estimates of scans whose contrasts have a grid each."""

    def grid_of(self, scans):
        return (SHAPE, AFFINE) if scans[0].contrast == "T1" else OTHER


def work(split, estimates=None, *, processes=1, register=True):
    estimates = estimates or TwoGrids("axial", None, 256)
    options = {"protocols": ["syndiff"], "register": register, "processes": processes}
    return cpu_work_text(split, ("T1", "T2"), estimates, **options)


def cases(*subjects, contrasts=("T1", "T2")):
    return [Case(subject, "", contrast, f"{subject}-{contrast}") for subject in subjects for contrast in contrasts]


TRAINING = {"T1": cases("a", contrasts=("T1",)), "T2": cases("b", contrasts=("T2",))}
SPLIT = CohortSplit(TRAINING, cases("c", "d"), cases("e", "f", "g", "h"))


def minutes(line):
    """The minutes to register, and to evaluate."""
    return [int(word) for before, word in zip(line.split(), line.split()[1:], strict=False) if before == "some"]


def test_minutes_are_seconds_a_million_voxels_times_scans_and_pairs():
    # 2 + 4 held-out pairs and 1 training pair x 8 million x (1 + 2 x 0.25) s = 84 s;
    # 8 scans x 8 million x (4 systems x 2 protocols + 0.5 + 0.25) s = 560 s.
    split = CohortSplit({"T1": cases("a"), "T2": []}, SPLIT.validation, SPLIT.test)
    assert work(split) == (
        "CPU work   some 1 min to register 7 pairs and some 11 min to evaluate 4 test subjects, in 1 processes, "
        "besides the networks (estimate)"
    )


def test_processes_divide_the_work_and_voxels_multiply_it():
    assert minutes(work(SPLIT)) == [1, 11]
    assert minutes(work(SPLIT, processes=4)) == [3]
    finer = TwoGrids("axial", (0.5, 1.25), 256)  # four times the voxels
    assert minutes(work(SPLIT, finer)) == [5, 46]


def test_nothing_is_registered_where_both_scans_lie_on_one_grid_or_headers_are_believed():
    shared = CohortEstimates("axial", None, 256, grid=(SHAPE, AFFINE))
    assert "under a minute to register 0 pairs" in work(SPLIT, shared)
    assert "register 0 pairs" in work(SPLIT, register=False)
    empty = CohortSplit(TRAINING, [], [])
    assert "register 0 pairs and under a minute to evaluate 0 test" in work(empty)


def test_slices_and_scans_without_a_partner_have_an_estimate_too():
    line = work(SPLIT, CohortEstimates("axial", None, 256, pictures=True))  # the files are not there to be read
    assert "register 0 pairs and under a minute to evaluate 4 test subjects" in line
    lone = CohortSplit(SPLIT.train, [], cases("e", "f", contrasts=("T1",)))
    assert "to register 0 pairs and some 3 min to evaluate 2 test subjects" in work(lone)
