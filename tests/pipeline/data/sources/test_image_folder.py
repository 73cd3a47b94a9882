import pytest
from empty_files import make

from pipeline.data.case import pairs
from pipeline.data.sources.image_folder import images_cases
from pipeline.utils.errors import UserError

TRAIN = {"T1": "TrainT1", "T2": "TrainT2"}


def test_each_image_is_a_subject_of_its_own_in_counting_order(tmp_path):
    make(tmp_path, *(f"Train{contrast}/Image #{number}.png" for contrast in TRAIN for number in (10, 2, 1)))
    make(tmp_path, "TrainT1/notes.txt", "TrainT1/.hidden.png")
    cases = images_cases(tmp_path, TRAIN, {}, paired=False)
    assert [case.subject for case in cases] == [f"{contrast}-Image #{n}" for contrast in TRAIN for n in (1, 2, 10)]
    assert {case.split for case in cases} == {None}
    assert cases[2].path == tmp_path / "TrainT1/Image #10.png"
    assert pairs(cases, ("T1", "T2")) == []


def test_equal_names_pair_on_request(tmp_path):
    make(tmp_path, "TrainT1/Image #1.PNG", "TrainT1/Image #3.jpeg", "TrainT2/Image #1.tif", "TrainT2/Image #2.tiff")
    cases = images_cases(tmp_path, TRAIN, {}, paired=True)
    assert [case.subject for case in cases] == ["Image #1", "Image #1", "Image #2", "Image #3"]
    assert [pair[0].subject for pair in pairs(cases, ("T1", "T2"))] == ["Image #1"]


def test_test_folders_are_set_aside_under_names_of_their_own(tmp_path):
    for folder in ("TrainT1", "TrainT2", "TestT1", "TestT2"):
        make(tmp_path, f"{folder}/Image #1.png")
    test = {"T1": "TestT1", "T2": "TestT2"}
    unpaired = images_cases(tmp_path, TRAIN, test, paired=False)
    assert {(case.subject, case.split) for case in unpaired} == {
        ("T1-Image #1", None),
        ("T2-Image #1", None),
        ("test-T1-Image #1", "test"),
        ("test-T2-Image #1", "test"),
    }
    paired = images_cases(tmp_path, TRAIN, test, paired=True)
    assert [a.subject for a, _ in pairs(paired, ("T1", "T2"))] == ["Image #1", "test-Image #1"]
    assert len(images_cases(tmp_path, TRAIN, {"T2": "TestT2"}, paired=True)) == 3


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [
        ({"T1": "TrainT1", "T2": "nowhere"}, {}, r"nowhere: no such folder; correct data\.train\.T2"),
        (TRAIN, {"T1": "empty"}, r"empty: no PNG, JPEG or TIFF image directly in it; correct data\.test\.T1"),
        (TRAIN, {"PD": "TrainT1"}, r"data\.test\.PD: not a contrast of data\.train \(T1, T2\)"),
        (TRAIN, {"T1": "TrainT1"}, r"TrainT1: given both as data\.train\.T1 and as data\.test\.T1"),
        ({"T1": "TrainT1", "T2": "./TrainT1"}, {}, r"TrainT1: given both as data\.train\.T1 and as data\.train\.T2"),
        ({"T1": "twice", "T2": "TrainT2"}, {}, r"twice/a\.jpg and .*twice/a\.png would both be called T1-a_T1"),
    ],
)
def test_folders_that_cannot_be_used_are_named(train, test, reason, tmp_path):
    make(tmp_path, "TrainT1/a.png", "TrainT2/a.png", "empty/below/a.png", "twice/a.png", "twice/a.jpg")
    with pytest.raises(UserError, match=reason):
        images_cases(tmp_path, train, test, paired=False)


def test_pairs_that_were_promised_but_are_not_there_are_an_error(tmp_path):
    make(tmp_path, "TrainT1/a_T1.png", "TrainT2/a_T2.png")
    with pytest.raises(UserError, match=r"data\.paired is true, but no file name .* two contrasts .*a_T1\.png"):
        images_cases(tmp_path, TRAIN, {}, paired=True)
