from pathlib import Path

from pipeline.data.case import Case
from pipeline.data.splits import CohortSplit
from pipeline.planning.cohort import subject_lists, subject_table


def case(subject, contrast, session=""):
    return Case(subject, session, contrast, Path(f"{subject}{session}_{contrast}.nii"))


SPLIT = CohortSplit(
    train={
        "T1": tuple(case(f"s{number}", "T1") for number in range(7)),
        "T2": (case("t1", "T2"), case("t1", "T2", "2")),
    },
    validation=(),
    test=(case("u2", "T1"), case("u2", "T2"), case("u1", "T2")),
)


def test_the_short_form_names_the_first_few_of_each_part_and_how_many_more():
    assert subject_lists(SPLIT, ("T1", "T2")).splitlines() == [
        "train T1       s0, s1, s2, s3 and 3 more",
        "train T2       t1",
        "validation T1  none",
        "validation T2  none",
        "test T1        u2",
        "test T2        u1, u2",
        "(--verbose names every subject)",
    ]


def test_the_long_form_names_each_subject_once_with_part_and_contrasts():
    lines = subject_table(SPLIT, ("T1", "T2")).splitlines()
    assert [line.split() for line in lines[2:]] == [
        *(["train", f"s{number}", "T1"] for number in range(7)),
        ["train", "t1", "T2"],
        ["test", "u1", "T2"],
        ["test", "u2", "T1", "T2"],
    ]
