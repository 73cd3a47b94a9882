import numpy as np
import pytest
from image_statistics_samples import case, cohort_of, statistics

from pipeline.exploration.findings import find_all, head_overlap


def found(cohort):
    return [(finding.kind, [each.name for each in finding.cases], finding.text) for finding in find_all(cohort)]


def test_an_ordinary_cohort_has_no_findings():
    images = {case(n, contrast): statistics(low=n) for n in range(8) for contrast in ("T1", "T2")}
    assert find_all(cohort_of(images)) == []


def test_equal_voxels_under_two_names_are_said_to_break_the_split():
    images = {case(1): statistics(checksum="a"), case(2): statistics(checksum="a"), case(3): statistics(checksum="b")}
    reason = "identical voxels under 2 subjects' names: the split takes them for different people"
    assert found(cohort_of(images)) == [("duplicate", ["s1_T1", "s2_T1"], reason)]
    [(_, _, text)] = found(cohort_of(images, {case(2): "test"}))
    assert text == f"{reason}, and they are in test and train"
    [(_, _, text)] = found(cohort_of(images, {case(2): "not used"}))
    assert text == reason


def test_one_image_under_two_contrasts_of_a_subject_is_named():
    images = {case(1, "T1"): statistics(checksum="a"), case(1, "T2"): statistics(checksum="a")}
    assert found(cohort_of(images)) == [
        ("duplicate", ["s1_T1", "s1_T2"], "identical voxels: one of these files is not what its name says")
    ]


def test_a_pair_whose_heads_lie_apart_is_named():
    here = statistics().cells
    images = {case(1, "T1"): statistics(cells=here), case(1, "T2"): statistics(cells=here + np.array([0, 8, 0]))}
    reason = "by their headers the two heads share 20% of the smaller one; check both affines"
    assert found(cohort_of(images)) == [("no overlap", ["s1_T1", "s1_T2"], reason)]
    nearly = {**images, case(1, "T2"): statistics(cells=here + np.array([0, 2, 0]))}
    assert found(cohort_of(nearly)) == []


@pytest.mark.parametrize("cells", [None, np.zeros((0, 3), int)])
def test_an_overlap_that_cannot_be_known_is_not_judged(cells):
    assert head_overlap(statistics().cells, cells) is None


def test_a_pair_with_an_unreadable_half_is_only_unreadable():
    cohort = cohort_of({case(1, "T1"): statistics()}, unreadable={case(1, "T2"): "truncated"})
    assert found(cohort) == [("unreadable", ["s1_T2"], "truncated")]


def test_what_one_image_shows_by_itself():
    images = {
        case(1): statistics(warning="3 voxels were replaced", nan=2, inf=1),
        case(2): statistics(cut_off=0.07),
        case(3): statistics(cut_off=0.001),
        case(4): statistics(slices=0),
        case(5): statistics(cut_off=0.02),
        case(6): statistics(warning="its header gives no orientation"),
    }
    assert found(cohort_of(images)) == [
        ("not finite", ["s1_T1"], "3 voxels were replaced (2 NaN, 1 infinite)"),
        ("doubtful", ["s6_T1"], "its header gives no orientation"),
        ("no slices", ["s4_T1"], "no slice has enough head in it; training would leave it out "
         "(preprocess.min_foreground)"),
        ("cut off", ["s2_T1", "s5_T1"], "up to 7.0% of the head lies beyond the slices that training sees; "
         "raise preprocess.size, or cut on a coarser grid"),
    ]  # fmt: skip


def test_outliers_are_judged_among_their_own_contrast_and_the_farthest_comes_first():
    images = {case(n, "T1"): statistics() for n in range(6)} | {case(n, "T2"): statistics(high=90.0) for n in range(6)}
    assert found(cohort_of(images)) == []
    images[case(2, "T2")] = statistics(low=0.0, high=950.0)
    images[case(4, "T1")] = statistics(low=0.0, high=95_000.0)
    cohort = cohort_of(images)
    assert [(kind, names) for kind, names, _ in found(cohort)] == [("outlier", ["s4_T1"]), ("outlier", ["s2_T2"])]
    assert [finding.z > 0 for finding in find_all(cohort)] == [True, True]


def test_of_many_images_the_first_few_are_named():
    [finding] = find_all(cohort_of({case(n): statistics(cut_off=0.1) for n in range(9)}))
    assert finding.names == "s0_T1, s1_T1, s2_T1, s3_T1, s4_T1, s5_T1 and 3 more"
