import numpy as np
import pytest
from small_slices import store_volumes

from pipeline.data.coverage import FULL_COVERAGE, Coverage, head_slices, shared_length, typical_lengths
from pipeline.data.loader import SliceBank
from pipeline.data.statistics import CaseStatistics
from pipeline.data.stored_slices import BINS, StoredCase, pack_histograms, unpack_histograms


def chosen(coverage, head, slice_mm, count=20):
    return np.flatnonzero(coverage.select(np.arange(count), head, slice_mm)).tolist()


def test_the_head_runs_from_the_first_to_the_last_slice_with_a_fair_share_of_it():
    foreground = np.zeros((9, 20, 20), bool)
    foreground[2, :10, :10] = foreground[4, :10, :10] = True  # 100 pixels; a hole between them belongs to the head
    foreground[5, :1, :5] = True  # 5 of 100: just a fair share
    foreground[0, 0, 0] = foreground[6, :2, :2] = True  # a speck, and the tip
    assert head_slices(foreground) == (2, 5)
    assert head_slices(np.zeros((4, 3, 3), bool)) == (0, 3)


def test_an_axial_range_begins_at_the_crown_wherever_the_volume_ends():
    coverage = Coverage("axial", 12.0)
    assert chosen(coverage, (1, 9), 3.0) == [6, 7, 8, *range(9, 20)]  # four slices of head, and the tip above
    assert chosen(coverage, (1, 15), 3.0) == list(range(12, 20))
    assert chosen(coverage, (1, 9), 5.0) == list(range(8, 20))  # 2.4 slices
    assert chosen(coverage, (1, 9), 100.0) == list(range(9, 20))  # one at least
    assert chosen(coverage, (8, 9), 3.0) == list(range(6, 20))  # a shorter head is whole


def test_a_sagittal_range_lies_about_the_middle():
    assert chosen(Coverage("sagittal", 9.0), (1, 9), 3.0) == [4, 5, 6]
    assert chosen(Coverage("sagittal", 12.0), (1, 9), 3.0) == [3, 4, 5, 6]
    assert chosen(Coverage("sagittal", 27.0), (1, 9), 3.0) == list(range(20))  # all of it: nothing is cut


def test_without_a_range_all_slices_are_in_it():
    assert chosen(FULL_COVERAGE, (3, 4), 1.0) == list(range(20))


def test_contrasts_share_the_shorter_of_their_medians_unless_they_agree_anyway():
    lengths = {"T1": [228.0, 231.0, 30.0], "T2": [150.0, 155.0, 160.0, 165.0]}
    typical = typical_lengths(lengths)
    assert typical == {"T1": 228.0, "T2": 157.5}
    assert shared_length(typical) == 157.5
    assert shared_length({"T1": 165.0, "T2": 150.0}) is None  # a tenth apart
    assert shared_length({"T1": 166.0, "T2": 150.0}) == 150.0
    assert typical_lengths({"T1": [], "T2": [3.0]}) == {"T2": 3.0}


def test_histograms_survive_their_text():
    counts = np.random.default_rng(0).integers(0, 2**32, (7, BINS))
    assert np.array_equal(unpack_histograms(pack_histograms(counts)), counts)


@pytest.fixture
def entry(tmp_path):
    """A volume of which slices 2, 3, 5, 6, 8 and 9 of twelve are stored; slice i of all is the level 100 · i."""
    [slices] = store_volumes(tmp_path, [6], constant=True)
    histograms = np.arange(12)[:, None] * np.ones((1, BINS), int)
    statistics = CaseStatistics(
        0, 1, True, [2.0] * 3, [], pack_histograms(histograms), head_slices=(1, 9), slice_mm=2.0
    )
    return StoredCase(slices.case, slices.path, [2, 3, 5, 6, 8, 9], statistics=statistics)


def levels(bank):
    return np.rint((bank.gather(range(len(bank)))[:, 0, 0, 0].numpy() + 1) * 65535 / 200).astype(int).tolist()


def test_a_stored_case_within_a_range_reads_those_slices_from_the_same_file(entry):
    cut = entry.within(Coverage("axial", 10.0))  # from slice 5 on
    assert (cut.first, cut.count, cut.stored, cut.path) == (2, 4, 6, entry.path)
    assert cut.positions == [5, 6, 8, 9]
    bank = SliceBank([cut, entry])
    assert levels(bank) == [2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert (bank.volume(0)[:, 0, 0] // 100).tolist() == [0, 1, 2, 3, 4, 5]  # all of the file


def test_its_histogram_is_that_of_all_of_the_volumes_slices_in_the_range(entry):
    assert entry.within(Coverage("axial", 10.0)).statistics.histogram == [5 + 6 + 7 + 8 + 9 + 10 + 11] * BINS
    assert entry.within(Coverage("sagittal", 6.0)).statistics.histogram == [4 + 5 + 6] * BINS


def test_a_middle_range_ends_before_the_file_does(entry):
    cut = entry.within(Coverage("sagittal", 6.0))
    assert (cut.first, cut.count) == (2, 2) and levels(SliceBank([cut])) == [2, 3]
    second_cut = cut.within(Coverage("axial", 8.0))  # positions 6 and above, of 5 and 6
    assert (second_cut.first, second_cut.count, second_cut.stored) == (3, 1, 6)
    assert levels(SliceBank([second_cut])) == [3]


def test_another_scans_head_counts_where_slices_lie_on_its_grid(entry):
    cut = entry.cut(Coverage("axial", 4.0), (0, 6), 2.0)
    assert cut.positions == [5, 6, 8, 9]
