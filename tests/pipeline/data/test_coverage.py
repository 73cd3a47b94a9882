from dataclasses import replace

import numpy as np
from small_slices import store_volumes

from pipeline.data.coverage import FULL_COVERAGE, Coverage, head_slices, shared_length, typical_lengths
from pipeline.data.loader import SliceBank
from pipeline.data.stored_slices import BINS, decode, pack_histograms, unpack_histograms


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


def test_slices_in_a_range_are_read_from_the_file_of_all(tmp_path):
    (entry,) = store_volumes(tmp_path, [6], constant=True)
    entry = replace(entry, positions=[2, 3, 5, 6, 8, 9])
    cut = entry.cut(Coverage("axial", 10.0), (1, 9), 2.0)  # from slice 5 on
    middle = cut.cut(Coverage("sagittal", 6.0), (1, 9), 2.0)
    assert (cut.positions, middle.positions) == ([5, 6, 8, 9], [5, 6])
    bank, stored = SliceBank([cut, middle, entry]), np.load(entry.path)
    expected = decode(stored[[2, 3, 4, 5, 2, 3, *range(6)]])
    assert np.array_equal(bank.gather(range(len(bank)))[:, 0].numpy(), expected)
