from pathlib import Path

import pytest

from pipeline.data.case import Case
from pipeline.data.sources.listing import check_unique_names, natural_key, nifti_stem
from pipeline.utils.errors import UserError


def test_names_sort_as_one_counts():
    assert sorted(["Image #10", "Image #2", "7", "Image", "b2c10", "b2c9"], key=natural_key) == [
        "7", "Image", "Image #2", "Image #10", "b2c9", "b2c10",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.nii", "a"),
        ("a.b.nii.gz", "a.b"),
        ("A.NII.GZ", "A"),
        ("a.nii.gz.part", None),
        ("._a.nii", None),
        (".nii", None),
    ],
)
def test_volumes_are_known_by_their_suffix_and_hidden_files_are_not(name, stem):
    assert nifti_stem(name) == stem


def test_cases_that_would_share_a_name_are_refused_within_a_contrast():
    first, second = Case("p1_b", "", "T1", Path("a.nii")), Case("p1", "b", "T1", Path("b.nii"))
    assert first.name == second.name
    reason = r"a\.nii and b\.nii would both be called p1_b_T1 .*subject p1_b; subject p1, session b.; rename"
    with pytest.raises(UserError, match=reason):
        check_unique_names([first, second])
    check_unique_names([first, Case("p1", "b", "T2", Path("b.nii"))])
