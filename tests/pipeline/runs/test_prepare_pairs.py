from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from head_scans import scan, write_scan

from pipeline.config.schema import Config
from pipeline.data import pair_cache
from pipeline.data import pairs as pairing
from pipeline.data_builders import find_cases, prepare_data, split_cases
from pipeline.runs.prepare import cohort_statistics, require_same_data, training_data
from pipeline.utils.errors import UserError

SUBJECTS = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of five subjects with both contrasts on one grid, and two with one contrast each."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(SUBJECTS):
        for side, contrast in enumerate(("T1", "T2")):
            write_scan(folder / f"s{number}_{contrast}.nii", scan(contrast, seed=2 * number + side))
    write_scan(folder / "lone1_T1.nii", scan("T1", seed=90))
    write_scan(folder / "lone2_T2.nii", scan("T2", seed=91))
    return folder


@pytest.fixture
def cohort(data, tmp_path):
    """The configuration of a run on that folder; its store is fresh, its volumes are links that a test may replace."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in data.iterdir():
        (folder / path.name).symlink_to(path)
    return Config.model_validate(
        {
            "name": "small",
            "data": {
                "source": "nifti",
                "folder": folder,
                "patterns": {"T1": "{subject}_T1.nii", "T2": "{subject}_T2.nii"},
            },
            "split": {"validation": 1, "test": 1, "pairing": "paired"},
            "preprocess": {"size": 48, "store": tmp_path / "store", "processes": 1},
        }
    )


def spoil(case):
    case.path.unlink()
    case.path.write_bytes(b"damaged")


def train(config, side):
    return split_cases(config, find_cases(config)).train[side]


def test_a_paired_run_gets_the_pairs_besides_the_same_slices_and_facts(cohort, capsys):
    cases = find_cases(cohort)
    plain = prepare_data(cohort, cases, quiet=True)
    assert plain.pairs == () and capsys.readouterr().err == ""
    prepared = prepare_data(cohort, cases, paired=True, quiet=True)
    assert (prepared.stored, prepared.statistics, prepared.split) == (plain.stored, plain.statistics, plain.split)
    assert [pair.cases for pair in prepared.pairs] == list(
        zip(prepared.split.train["T1"], prepared.split.train["T2"], strict=True)
    )
    assert len(prepared.pairs) == SUBJECTS - 2
    assert prepared.longest == sum(pair.first.count for pair in prepared.pairs) > 0
    assert capsys.readouterr().err == (
        "warning: left out of paired training for want of a partner in the other contrast: lone1_T1, lone2_T2\n"
    )
    assert prepare_data(cohort, cases, paired=True, quiet=True) == prepared


def test_an_image_that_cannot_be_used_takes_its_partner_with_it(cohort, capsys):
    bad = train(cohort, "T2")[0]
    spoil(bad)
    prepared = prepare_data(cohort, find_cases(cohort), paired=True, quiet=True)
    (partner,) = [case for case in prepared.split.train["T1"] if case.subject == bad.subject]
    assert bad.subject not in {pair.first.case.subject for pair in prepared.pairs} and len(prepared.pairs) == 2
    assert set(prepared.left_out) == {bad, partner}
    assert prepared.left_out[partner] == f"its partner {bad.path} could not be used"
    for contrast in ("T1", "T2"):
        assert prepared.statistics[contrast] == cohort_statistics(prepared.stored[contrast])
    assert capsys.readouterr().err.splitlines()[-1] == "warning: 1 of 3 training pairs were left out"


def test_a_pair_that_cannot_be_registered_is_left_out_of_training_with_its_reason(cohort, monkeypatch):
    case = train(cohort, "T1")[1]
    case.path.unlink()
    write_scan(case.path, scan("T1", shape=(36, 44, 33)))

    def fail(*_):
        raise ValueError("no agreement")

    monkeypatch.setattr(pairing, "register_rigid", fail)
    prepared = prepare_data(cohort, find_cases(cohort), paired=True, quiet=True)
    assert {left.subject for left in prepared.left_out} == {case.subject} and len(prepared.left_out) == 2
    assert all(reason.endswith(": no agreement") for reason in prepared.left_out.values())
    stop = cohort.model_copy(update={"preprocess": cohort.preprocess.model_copy(update={"on_bad_volume": "stop"})})
    with pytest.raises(UserError, match=r"no agreement \(preprocess\.on_bad_volume"):
        prepare_data(stop, find_cases(cohort), paired=True, quiet=True)


def test_registration_is_done_only_where_the_configuration_wants_it(cohort, monkeypatch):
    calls = []
    monkeypatch.setattr(pair_cache, "extract_pair", lambda cases, folder, settings, cache: calls.append(settings))
    for expected in (True, False):
        evaluation = cohort.evaluation.model_copy(update={"register_pairs": expected})
        with pytest.raises(UserError, match="none of 3 pairs"):
            prepare_data(
                cohort.model_copy(update={"evaluation": evaluation}), find_cases(cohort), paired=True, quiet=True
            )
    assert [settings.register for settings in calls] == [True] * 3 + [False] * 3


def test_without_a_usable_pair_the_run_says_how_many_there_should_have_been(cohort):
    for number, case in enumerate(train(cohort, "T1")):
        spoil(case if number else train(cohort, "T2")[0])
    with pytest.raises(UserError) as caught:
        prepare_data(cohort, find_cases(cohort), paired=True, quiet=True)
    assert str(caught.value) == (
        "paired training needs a subject with both T1 and T2: of 3 training subjects with both, none has two images "
        "that could be used; the reasons are above"
    )


def test_too_few_subjects_with_both_contrasts_are_counted(cohort):
    settings = cohort.model_copy(update={"split": cohort.split.model_copy(update={"test": 4})})
    with pytest.raises(UserError) as caught:
        prepare_data(settings, find_cases(cohort), paired=True, quiet=True)
    assert "1 with T1 only, 1 with T2 only, 5 with both" in str(caught.value)
    assert "paired training needs one with both T1 and T2" in str(caught.value)


def test_resumed_training_is_refused_when_a_pair_changed(cohort):
    prepared = prepare_data(cohort, find_cases(cohort), paired=True, quiet=True)
    before, images = training_data(prepared), training_data(prepare_data(cohort, find_cases(cohort), quiet=True))
    names = {" and ".join(case.name for case in pair.cases) for pair in prepared.pairs}
    assert before.keys() - images.keys() == names and {name: before[name] for name in images} == images
    require_same_data(
        before, training_data(prepare_data(cohort, find_cases(cohort), paired=True, quiet=True)), Path("x")
    )
    pair, *others = prepared.pairs
    shifted = np.eye(4)
    shifted[0, 3] = 0.01
    moved = replace(pair, rigid_transform=shifted.tolist())
    names = " and ".join(case.name for case in pair.cases)
    for pairs_now in ((moved, *others), tuple(others)):
        with pytest.raises(UserError, match=f"training data changed .*{names}"):
            require_same_data(before, training_data(replace(prepared, pairs=pairs_now)), Path("x"))
