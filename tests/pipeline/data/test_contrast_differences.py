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


def test_of_many_volumes_some_are_read_and_what_cannot_be_is_passed_over(tmp_path):
    case = write(tmp_path / "a.nii", (3, 4, 5), np.eye(4))
    (tmp_path / "b.nii").write_bytes(b"damaged")
    bad = Case("b", "", "T1", tmp_path / "b.nii")
    assert len(header_grids([case] * 500)) == MAX_HEADERS
    assert len(header_grids([bad, case, Case("c", "", "T1", tmp_path / "none.nii")])) == 1
    assert header_grids([]) == []


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
        ("sub_01", "SUB-01"),
        ("smith_T1", "smith_T2"),
        ("P007-t1w", "P007-T2W"),
        ("Müller", "MÜLLER"),
        ("sub-1", "sub-001"),
    ],
)
def test_names_that_nearly_agree_are_paired(first, second):
    assert similar([first], [second]) == [(first, second)]
    assert similar([second], [first]) == [(second, first)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("001", "002"),
        ("p10", "p100"),
        ("patientA", "patientB"),
        ("T1", "T2"),  # nothing is left of them
    ],
)
def test_other_names_are_other_people(first, second):
    assert similar([first], [second]) == []


def test_subjects_with_both_contrasts_are_left_out_and_each_name_is_used_once():
    assert similar(["7", "P8"], ["7", "P-7", "p8"]) == [("P8", "p8")]
    assert similar(["7", "P8"], ["7", "P8"]) == []
    assert similar(["p-1", "P1"], ["P_1"]) == [("P1", "P_1")]


def test_the_text_counts_gives_an_example_and_says_what_follows():
    cases = cohort(["P007", "P008", "P9"], ["p-007", "p-008"])
    text = similar_ids_text(cases, ("T1", "T2"))
    assert text == (
        "subjects with both T1 and T2: 0; subjects with T1 only (of 3) whose name nearly agrees with one with T2 only "
        "(of 2): 2, such as P007 and p-007; if they are the same people they count as no pair, and a person may train "
        "and be tested: give both contrasts' files one name for a subject"
    )
    part_of = {"P007": "train", "p-007": "test", "P008": "train", "p-008": "train"}
    assert "may train and be tested (here 1 would): give" in similar_ids_text(cases, ("T1", "T2"), part_of)
