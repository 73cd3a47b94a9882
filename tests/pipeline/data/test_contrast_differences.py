from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.data.case import Case
from pipeline.data.contrast_differences import MAX_HEADERS, header_grids, similar_ids, similar_ids_text


def write(path, shape, affine):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int8), affine), path)
    return Case(path.stem, "", "T1", path)


def test_a_grid_is_that_of_the_body_however_the_file_runs(tmp_path):
    posterior_superior_right = np.array([[0, 0, 1.2, 0], [-0.9, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 0, 1.0]])
    [grid] = header_grids([write(tmp_path / "a.nii", (10, 20, 30), posterior_superior_right)])
    assert grid.voxel_mm == pytest.approx((1.2, 0.9, 0.8))
    assert grid.field_mm == pytest.approx((36, 9, 16))
    assert [grid.field_along(axis) for axis in ("sagittal", "coronal", "axial")] == pytest.approx([36, 9, 16])


def test_of_many_volumes_some_are_read_and_what_cannot_be_is_passed_over(tmp_path):
    case = write(tmp_path / "a.nii", (3, 4, 5), np.eye(4))
    (tmp_path / "b.nii").write_bytes(b"damaged")
    bad = Case("b", "", "T1", tmp_path / "b.nii")
    assert len(list(header_grids([case] * 500))) == MAX_HEADERS
    assert len(list(header_grids([bad, case, Case("c", "", "T1", tmp_path / "none.nii")]))) == 1
    assert list(header_grids([])) == []


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────


def cohort(first, second):
    """Cases of subjects with T1, then of those with T2."""
    labelled = [(name, "T1") for name in first] + [(name, "T2") for name in second]
    return [Case(name, "", contrast, Path(f"{name}_{contrast}.nii")) for name, contrast in labelled]


def similar(first, second):
    return similar_ids(cohort(first, second), ("T1", "T2"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("P007", "007B"),
        ("P007", "7"),
        ("sub_01", "SUB-01"),
        ("smith_T1", "smith_T2"),
        ("P007-t1w", "P007-T2W"),
        ("site2_subject03", "s02-3"),
        ("miller", "millers"),
        ("Müller", "MÜLLERS"),
    ],
)
def test_names_that_nearly_agree_are_paired(first, second):
    assert similar([first], [second]) == [(first, second)]
    assert similar([second], [first]) == [(second, first)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("001", "002"),
        ("P007", "P0077"),  # a digit more is another person
        ("patientA", "patientB"),
        ("anne", "anna"),
        ("ann", "anna"),  # too short to tell
        ("IXI116-Guys-0876", "IXI580-IOP-1157"),
        ("site1_03", "site2_03"),
        ("T1", "T2"),  # nothing is left of them
    ],
)
def test_other_names_are_other_people(first, second):
    assert similar([first], [second]) == []


def test_subjects_with_both_contrasts_are_left_out_and_each_name_is_used_once():
    assert similar(["7", "P8"], ["7", "P07", "P008", "8"]) == [("P8", "8")]
    assert similar(["7", "P8"], ["7", "P8"]) == []
    assert similar(["miller", "millers"], ["millersx", "millerx"]) == [("miller", "millerx"), ("millers", "millersx")]
    assert similar(["P1", "Q1"], ["1"]) == [("P1", "1")]
    assert similar(["a_01", "b_01"], ["B-01", "c01"]) == [("a_01", "c01"), ("b_01", "B-01")]  # the nearer way first


def test_the_text_counts_gives_an_example_and_says_what_follows():
    cases = cohort(["P007", "P008", "P9"], ["007B", "008B"])
    text = similar_ids_text(cases, ("T1", "T2"))
    assert text == (
        "no subject has both T1 and T2, and 2 names with T1 only (of 3) nearly agree with one with T2 only (of 2), "
        "such as P007 and 007B; if they are the same people they count as no pair, and a person may train and be "
        "tested: give both contrasts' files one name for a subject"
    )
    part_of = {"P007": "train", "007B": "test", "P008": "train", "008B": "train"}
    assert "may train and be tested (here 1 would): give" in similar_ids_text(cases, ("T1", "T2"), part_of)


def test_subjects_with_both_are_counted_too():
    cases = cohort(["both", "also", "P007"], ["both", "also", "007B"])
    text = similar_ids_text(cases, ("T1", "T2"))
    assert text.startswith("2 subjects have both T1 and T2, and 1 name with T1 only (of 1) nearly agrees with one ")
    assert similar_ids_text(cohort(["a1"], ["a1"]), ("T1", "T2")) is None
