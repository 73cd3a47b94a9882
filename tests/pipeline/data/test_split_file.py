import json
from pathlib import Path

import pytest

from pipeline.data.case import Case
from pipeline.data.split_file import split_from_file, split_to_json
from pipeline.data.splits import make_split
from pipeline.utils.errors import UserError

CONTRASTS = ("T1", "T2")
GOOD = {"train": {"T1": ["s1"], "T2": ["s2"]}, "validation": ["s3"], "test": ["s4"]}


def cohort(subjects=6, sessions=("",)):
    return [
        Case(f"s{number}", session, contrast, Path(f"s{number}{session}{contrast}.nii.gz"))
        for number in range(1, subjects + 1)
        for session in sessions
        for contrast in CONTRASTS
    ]


def read(tmp_path, content, cases=None, pairing="unpaired", pairs_beside=0):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    return split_from_file(path, cases or cohort(), CONTRASTS, pairing=pairing, pairs_beside=pairs_beside)


def problems(*arguments, **options):
    """Return the lines under the first of the error."""
    with pytest.raises(UserError) as caught:
        read(*arguments, **options)
    first, *problem_lines = str(caught.value).splitlines()
    assert first.endswith("split.json: not a split of this data; correct the file (split.file):")
    return [line.strip() for line in problem_lines]


@pytest.mark.parametrize(("pairing", "pairs"), [("unpaired", 0), ("paired", 0), ("unpaired", 5)])
@pytest.mark.parametrize("sessions", [("",), ("ses-1", "ses-2"), ("", "v2")])
def test_a_saved_split_comes_back_the_same(pairing, pairs, sessions, tmp_path):
    cases = [*cohort(9, sessions), Case("s1", "odd", "T1", Path("odd.nii")), Case("s10", "", "T1", Path("10.nii"))]
    result = make_split(cases, CONTRASTS, validation=2, test=2, seed=1, pairing=pairing, pairs_beside=pairs)
    assert ("pairs" in split_to_json(result)) == (pairs > 0)
    assert read(tmp_path, split_to_json(result), cases, pairing, pairs) == result


def test_a_subject_means_all_its_sessions_unless_one_is_named(tmp_path):
    cases = cohort(sessions=("a", "b"))
    result = read(tmp_path, {**GOOD, "test": ["s4", "s5/b"]}, cases)
    assert sorted({(case.subject, case.session) for case in result.test}) == [("s4", "a"), ("s4", "b"), ("s5", "b")]
    assert len(result.test) == 6


def test_yaml_by_hand_keeps_names_that_look_like_numbers(tmp_path):
    cases = [
        Case(f"00{number}", "", contrast, Path(f"{number}{contrast}")) for number in range(4) for contrast in CONTRASTS
    ]
    path = tmp_path / "split.yaml"
    path.write_text("train: {T1: [000], T2: [001]}\nvalidation:\ntest:\n  - 002\n  - 003  # the last\n")
    result = split_from_file(path, cases, CONTRASTS, pairing="unpaired")
    assert [case.subject for case in result.train["T2"]] == ["001"]
    assert result.validation == ()
    assert [case.subject for case in result.test] == ["002", "002", "003", "003"]


def test_all_problems_are_listed_at_once(tmp_path):
    content = {
        "train": {"T1": ["s1", "s2"], "T2": ["s2", "s3", "nobody"], "PD": []},
        "validation": ["s1", "s9"],
        "tests": [],
    }
    assert problems(tmp_path, content) == [
        "test: missing",
        "tests: unknown; the keys are train, validation, test",
        "train.PD: unknown; the keys are T1, T2",
        "train.T2: the data has no T2 image of nobody",
        "validation: the data has no image of s9",
        "train.T1 and train.T2: both have s2, which split.pairing: unpaired forbids",
        "train.T1 and validation: both have s1",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train": {"T1": ["s4"], "T2": ["s2"]}}, ["train.T1 and test: both have s4"]),
        ({"validation": ["s4"]}, ["validation and test: both have s4"]),
        ({"train": {"T1": [], "T2": ["s2"]}}, ["train.T1: empty; training needs both contrasts"]),
        ({"train": {"T1": ["s1"]}}, ["train.T2: missing"]),
        ({"train": ["s1"]}, ["train: must have the keys T1, T2"]),
        ({"test": "s4"}, ["test: must be a list of names"]),
        ({"test": [4]}, ["test: must be a list of names"]),
        ({"test": ["s4/ses-1"]}, ["test: the data has no image of s4/ses-1"]),
        ({"test": [f"x{n}" for n in range(10, 30)]}, [
            "test: the data has no image of x10, x11, x12, x13, x14, x15, x16, x17 and 12 more"
        ]),
    ],
)  # fmt: skip
def test_a_wrong_part_is_named(change, expected, tmp_path):
    assert problems(tmp_path, {**GOOD, **change}) == expected


def test_paired_training_needs_the_pair_of_each_scan(tmp_path):
    content = {**GOOD, "train": {"T1": ["s1", "s2"], "T2": ["s2"]}}
    assert problems(tmp_path, content, pairing="paired") == [
        "train.T1: not in train.T2 too, as split.pairing: paired needs: s1"
    ]
    content["train"]["T2"].append("s1")
    result = read(tmp_path, content, pairing="paired")
    assert all([case.subject for case in result.train[contrast]] == ["s1", "s2"] for contrast in CONTRASTS)


def test_images_of_the_test_folders_stay_out_of_training(tmp_path):
    cases = [*cohort(), Case("test-s1", "", "T1", Path("x.png"), "test")]
    content = {**GOOD, "train": {"T1": ["s1", "test-s1"], "T2": ["s2"]}}
    assert problems(tmp_path, content, cases) == ["train.T1: the data sets these aside for testing: test-s1"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("split.json", b"{", "neither JSON nor YAML"),
        ("split.yaml", b"a: [", "neither JSON nor YAML"),
        ("split.yaml", b"!!python/object/apply:os.system ['true']", "must have the keys"),
        ("split.yaml", b"\xff\xfe\xfa", "not a text file; give the path of a split, JSON or YAML"),
        ("split.json", b"[" * 200_000, "neither JSON nor YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, reason, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: (.|\n)*{reason}"):
        split_from_file(path, cohort(), CONTRASTS, pairing="unpaired")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json: cannot be read \(No such file .*\); correct split\.file"):
        split_from_file(tmp_path / "gone.json", cohort(), CONTRASTS, pairing="unpaired")


BESIDE = {"train": {"T1": ["s1", "s5"], "T2": ["s2", "s5"]}, "validation": ["s3"], "test": ["s4"], "pairs": ["s5"]}


@pytest.mark.parametrize(
    ("change", "count", "expected"),
    [
        ({}, 0, "pairs: has 1 subjects, and split.pairs is 0; make them agree"),
        ({"pairs": []}, 0, "train.T1 and train.T2: both have s5, which split.pairing: unpaired forbids"),
        ({"pairs": ["s5", "s1"]}, 2, "pairs: not in train.T2 too: s1"),
        ({"pairs": ["s3"]}, 1, "train.T1 and train.T2: both have s5, which split.pairing: unpaired forbids"),
        ({"pairs": "s5"}, 0, "pairs: must be a list of names"),
    ],
)
def test_pairs_that_do_not_fit_are_named(change, count, expected, tmp_path):
    assert expected in problems(tmp_path, BESIDE | change, pairs_beside=count)
