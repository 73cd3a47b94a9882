import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.case import Case
from pipeline.data.splits import make_split
from pipeline.utils.errors import UserError

CONTRASTS = ("T1", "T2")


def cohort(both=0, first=0, second=0, sessions=("",)):
    """Return cases of subjects b0…, with both contrasts, and a0… and c0…, with the first or second only."""
    kinds = [("b", both, CONTRASTS), ("a", first, CONTRASTS[:1]), ("c", second, CONTRASTS[1:])]
    return [
        Case(f"{letter}{number}", session, contrast, Path(f"{letter}{number}{session}{contrast}.nii.gz"))
        for letter, count, contrasts in kinds
        for number in range(count)
        for session in sessions
        for contrast in contrasts
    ]


def split(cases, validation=0, test=0, seed=0, pairing="unpaired"):
    return make_split(cases, CONTRASTS, validation=validation, test=test, seed=seed, pairing=pairing)


def subjects(cases):
    return {case.subject for case in cases}


def test_counts_are_numbers_of_subjects_and_both_contrasts_of_each_are_kept():
    result = split(cohort(both=10, sessions=("ses-1", "ses-2")), validation=2, test=3)
    assert len(subjects(result.validation)) == 2
    assert len(subjects(result.test)) == 3
    assert len(result.validation) == 2 * 2 * 2
    assert len(result.test) == 3 * 2 * 2
    assert [len(subjects(result.train[contrast])) for contrast in CONTRASTS] == [3, 2]


@pytest.mark.parametrize(
    ("share", "taken"), [(0.2, 2), (0.25, 3), (0.24, 2), (0.01, 1), (0.0, 0), (0, 0), (1, 1)]
)  # of 10; half a subject rounds up, a share above zero is at least one
def test_fractions_are_shares_of_the_subjects_with_both(share, taken):
    test = subjects(split(cohort(both=10, first=50, second=50), test=share).test)
    assert len(test) == taken and all(name.startswith("b") for name in test)


def test_unpaired_training_shares_no_subject_and_evens_out():
    train = split(cohort(both=8, first=5, second=1)).train
    first, second = (subjects(train[contrast]) for contrast in CONTRASTS)
    assert not first & second
    assert len(first) == len(second) == 7
    assert {f"a{number}" for number in range(5)} < first
    assert "c0" in second
    assert {case.contrast for case in train["T1"]} == {"T1"}


def test_paired_training_keeps_the_pairs_in_step():
    cases = [*cohort(both=4, first=2, second=2, sessions=("s1", "s2")), Case("b0", "s3", "T1", Path("x.nii"))]
    train = split(cases, pairing="paired").train
    assert [(a.subject, a.session) for a in train["T1"]] == [(b.subject, b.session) for b in train["T2"]]
    assert len(train["T1"]) == 8
    assert subjects(train["T1"]) == {"b0", "b1", "b2", "b3"}


def test_without_any_pair_each_contrast_gives_its_share():
    result = split(cohort(first=20, second=10), validation=0.1, test=2)
    assert sorted(name[0] for name in subjects(result.test)) == ["a", "a", "c", "c"]
    assert sorted(name[0] for name in subjects(result.validation)) == ["a", "a", "c"]
    assert (len(result.train["T1"]), len(result.train["T2"])) == (16, 7)


@pytest.mark.parametrize("seed", range(5))
def test_subjects_whose_contrasts_never_meet_in_a_session_are_still_drawn_whole(seed):
    apart = [Case(f"x{n}", f"s{c}", c, Path(f"x{n}{c}")) for n in range(12) for c in CONTRASTS]
    result = split(apart, validation=2, test=2, seed=seed)
    train = subjects(result.train["T1"]) | subjects(result.train["T2"])
    assert len(subjects(result.validation)) == len(subjects(result.test)) == 2
    assert len(result.test) == 4
    assert len(train | subjects(result.validation) | subjects(result.test)) == len(train) + 4 == 12


def test_what_the_source_set_aside_is_the_test_set_and_test_takes_no_more():
    reserved = [Case(f"test{number}", "", "T1", Path(f"{number}.png"), "test") for number in range(3)]
    result = split(cohort(first=10, second=10) + reserved, validation=1, test=5)
    assert set(result.test) == set(reserved)
    assert len(result.validation) == 2
    assert (len(result.train["T1"]), len(result.train["T2"])) == (9, 9)


def test_the_seed_alone_decides_and_not_the_order_of_files():
    cases = cohort(both=40)
    shuffled = random.Random(1).sample(cases, len(cases))
    assert split(cases, 0.2, 0.2, seed=3) == split(shuffled, 0.2, 0.2, seed=3)
    assert split(cases, 0.2, 0.2, seed=3) != split(cases, 0.2, 0.2, seed=4)


def test_one_more_subject_moves_at_most_one_other():
    before, after = (subjects(split(cohort(both=count), test=10).test) for count in (40, 41))
    assert len(before & after) >= 9


def test_a_split_that_was_made_once_is_made_again():
    result = split(cohort(both=6), validation=1, test=1, seed=0)
    assert (subjects(result.validation), subjects(result.test)) == ({"b5"}, {"b2"})


@pytest.mark.parametrize("pairing", ["unpaired", "paired"])
@settings(max_examples=60, deadline=None)
@given(
    both=st.integers(0, 12),
    first=st.integers(0, 6),
    second=st.integers(0, 6),
    apart=st.integers(0, 3),
    validation=st.one_of(st.integers(0, 4), st.floats(0, 1)),
    test=st.one_of(st.integers(0, 4), st.floats(0, 1)),
    seed=st.integers(0, 99),
)
def test_no_subject_is_ever_on_two_sides(pairing, both, first, second, apart, validation, test, seed):
    never_together = [
        Case(f"x{number}", session, contrast, Path(f"x{number}{contrast}"))
        for number in range(apart)
        for session, contrast in (("s1", "T1"), ("s2", "T2"))
    ]
    try:
        result = split(cohort(both, first, second) + never_together, validation, test, seed, pairing)
    except UserError:
        return
    train_first, train_second = (subjects(result.train[contrast]) for contrast in CONTRASTS)
    parts = [train_first | train_second, subjects(result.validation), subjects(result.test)]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert result.train["T1"] and result.train["T2"]
    assert (train_first == train_second) if pairing == "paired" else not train_first & train_second


# ── too few ─────────────────────────────────────────────────────────────────────────────────────────────────


def refusal(*arguments, **options):
    with pytest.raises(UserError) as caught:
        split(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_too_few_subjects_for_validation_and_test_gives_the_numbers():
    assert refusal(cohort(both=4, first=9), validation=0.5, test=3) == (
        "split.test 3 (3) + split.validation 0.5 (2) need 5 subjects with both T1 and T2, but there are 4; "
        "lower split.test or split.validation, or add subjects"
    )


def test_too_few_subjects_left_to_train_gives_the_numbers():
    assert refusal(cohort(both=3), validation=1, test=1) == (
        "of 3 subjects (0 with T1 only, 0 with T2 only, 3 with both) validation takes 1 and test takes 1, "
        "which leaves too few: unpaired training needs one with each contrast of its own; "
        "lower split.validation or split.test, add subjects, or change split.pairing"
    )
    assert split(cohort(both=3), validation=1, test=1, pairing="paired").train["T1"]


def test_a_contrast_without_images_is_told():
    assert refusal(cohort(first=5)).startswith("the data has no T2 image; ")


# ── pairs beside unpaired training ──────────────────────────────────────────────────────────────────────────


def few_pairs(cases, count, **options):
    arguments = {"validation": 2, "test": 2, "seed": 0, "pairing": "unpaired"} | options
    return make_split(cases, CONTRASTS, pairs_beside=count, **arguments)


def test_pairs_beside_are_training_subjects_and_alone_in_both_contrasts():
    cases = [*cohort(both=9, first=2, second=1, sessions=("", "v2")), Case("b1", "odd", "T1", Path("odd.nii"))]
    whole, plain = few_pairs(cases, 3), few_pairs(cases, 0)
    first, second = (subjects(whole.train[contrast]) for contrast in CONTRASTS)
    assert first & second == subjects(whole.pairs) and len(first & second) == 3
    assert set(whole.pairs) == {case for case in cases if case.subject in first & second and case.session != "odd"}
    assert (whole.validation, whole.test) == (plain.validation, plain.test)
    assert not (first | second) & subjects((*whole.validation, *whole.test))
    assert abs(len(first) - len(second)) <= 1
    assert plain.pairs == () and plain == split(cases, validation=2, test=2)


def test_more_pairs_than_training_subjects_with_both_are_refused():
    with pytest.raises(UserError, match=r"^split\.pairs = 6: only 5 training subjects have T1 and T2 in one session"):
        few_pairs(cohort(both=9, first=3, second=3), 6)
