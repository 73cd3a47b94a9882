import json
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from small_volumes import write_volume

import pipeline.data.sources.phantom
from pipeline.config.schema import Config
from pipeline.data.case import Case
from pipeline.data.statistics import CaseStatistics, ContrastStatistics, Fingerprint
from pipeline.data.stored_slices import StoredCase
from pipeline.data_builders import find_cases, prepare_data, preprocess_settings, split_cases
from pipeline.runs.folder import json_text
from pipeline.runs.prepare import PreparedData, chain_version, cohort_statistics, require_same_data, training_data
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings, slice_chain


@pytest.fixture
def cohort(tmp_path):
    """Return the configuration of six subjects' volumes in two contrasts."""
    for number in range(6):
        for side, contrast in enumerate(("MR", "CT")):
            write_volume(tmp_path / "data" / f"s{number}_{contrast}.nii.gz", 10 * number + side)
    patterns = {contrast: f"{{subject}}_{contrast}.nii.gz" for contrast in ("MR", "CT")}
    data = {"source": "nifti", "folder": tmp_path / "data", "patterns": patterns}
    return config(tmp_path, contrasts=["MR", "CT"], data=data, split={"validation": 1, "test": 1})


def config(tmp_path, **sections):
    base = {
        "name": "small",
        "data": {"source": "phantom", "folder": tmp_path / "phantom"},
        "preprocess": {"size": 32, "min_foreground": 0.1, "store": tmp_path / "store", "processes": 1},
    }
    return Config.model_validate(base | sections)


def changed(settings, section, **values):
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})


# ── cases ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_phantom_is_made_as_configured(tmp_path, monkeypatch):
    made = Mock(return_value=[])
    monkeypatch.setattr(pipeline.data.sources.phantom, "phantom_cases", made)
    data = {"source": "phantom", "folder": tmp_path / "heads", "subjects": 5, "spacing_mm": 4, "seed": 9}
    assert find_cases(config(tmp_path, data=data, contrasts=["PD", "FLAIR"]), quiet=True) == []
    options = {"subjects": 5, "spacing_mm": 4.0, "seed": 9, "variety": "standard", "processes": 1, "quiet": True}
    made.assert_called_once_with(tmp_path / "heads", ("PD", "FLAIR"), **options)


# ── the split ─────────────────────────────────────────────────────────────────────────────────────────────────


def split_of(train_mr, train_ct, test):
    return {"train": {"MR": train_mr, "CT": train_ct}, "validation": [], "test": test}


def test_a_saved_split_goes_before_the_configured_file_and_that_before_a_draw(cohort, tmp_path):
    cases = find_cases(cohort)
    atomic_text(tmp_path / "saved.json", json_text(split_of(["s0"], ["s1"], ["s2"])))
    atomic_text(tmp_path / "file.json", json_text(split_of(["s3"], ["s4"], ["s5"])))
    with_file = changed(cohort, "split", file=tmp_path / "file.json")

    def trained(settings, saved=None):
        return [case.subject for side in split_cases(settings, cases, saved).train.values() for case in side]

    assert trained(with_file, tmp_path / "saved.json") == ["s0", "s1"]
    assert trained(with_file) == ["s3", "s4"]
    assert len(trained(cohort)) == 4 and trained(cohort) == trained(cohort)


def test_a_split_without_a_test_subject_is_refused(cohort, tmp_path):
    atomic_text(tmp_path / "file.json", json_text(split_of(["s3"], ["s4"], [])))
    with pytest.raises(UserError, match=r"^the split has no test subject; name some in split\.file, .*file\.json$"):
        split_cases(changed(cohort, "split", file=tmp_path / "file.json"), find_cases(cohort))


def test_the_split_settings_are_heeded(cohort):
    cases = find_cases(cohort)
    drawn = split_cases(changed(cohort, "split", validation=2, test=1, pairing="paired"), cases)
    assert (len(drawn.validation), len(drawn.test)) == (4, 2)  # images: both contrasts
    subjects = [[case.subject for case in side] for side in drawn.train.values()]
    assert subjects[0] == subjects[1] and len(subjects[0]) == 3
    seeds = {tuple(split_cases(changed(cohort, "split", seed=seed), cases).test) for seed in range(8)}
    assert len(seeds) > 1


# ── the chain ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_chain_settings_are_plain_and_fit_the_chain(tmp_path):
    settings = preprocess_settings(config(tmp_path))
    plain = PreprocessSettings(axis="axial", spacing_mm=None, size=32, n4=False, percentiles=(0.5, 99.5))
    assert settings == replace(plain, version=CHAIN_VERSION)
    plain_json = {"axis": "axial", "spacing_mm": None, "size": 32, "n4": False, "percentiles": [0.5, 99.5]}
    assert plain.to_json() == plain_json and settings.to_json() == {"version": CHAIN_VERSION, **plain_json}
    assert preprocess_settings(config(tmp_path), chain_version({})) == plain  # a checkpoint that names none
    assert chain_version(None) == chain_version({"chain_version": CHAIN_VERSION}) == CHAIN_VERSION
    preprocess = {"axis": "coronal", "spacing_mm": {"in_plane": 1, "through_plane": 2}, "scaling": "type_range"}
    other = preprocess_settings(config(tmp_path, preprocess={"size": 64, "n4": True, **preprocess}))
    expected = PreprocessSettings(axis="coronal", spacing_mm=(1.0, 2.0), size=64, n4=True, percentiles=None)
    assert other == replace(expected, version=CHAIN_VERSION)
    for each in (settings, other):
        assert PreprocessSettings.from_json(json.loads(json.dumps(each.to_json()))) == each
        slice_chain(each)


# ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_training_cases_are_stored_by_contrast_and_held_out_ones_are_not(cohort, tmp_path):
    cases = find_cases(cohort)
    prepared = prepare_data(cohort, cases, quiet=True)
    assert prepared.cases == tuple(cases) and prepared.left_out == {}
    for contrast in ("MR", "CT"):
        assert [entry.case for entry in prepared.stored[contrast]] == list(prepared.split.train[contrast])
        assert prepared.statistics[contrast] == cohort_statistics(prepared.stored[contrast])
    assert len(list((tmp_path / "store").glob("*.npy"))) == 4
    assert prepared.longest == max(prepared.statistics[contrast].slices for contrast in ("MR", "CT"))
    assert prepare_data(cohort, cases, quiet=True) == prepared


def test_the_foreground_threshold_reaches_the_store(cohort):
    cases = find_cases(cohort)
    all_slices = prepare_data(cohort, cases, quiet=True).longest
    assert prepare_data(changed(cohort, "preprocess", min_foreground=0.25), cases, quiet=True).longest < all_slices


def test_images_that_cannot_be_used_are_left_out_and_counted(cohort, capsys):
    cases = find_cases(cohort)
    bad = split_cases(cohort, cases).train["MR"][0]
    bad.path.write_bytes(b"damaged")
    prepared = prepare_data(cohort, cases, quiet=True)
    assert list(prepared.left_out) == [bad]
    assert [entry.case for entry in prepared.stored["MR"]] == list(prepared.split.train["MR"][1:])
    warnings = capsys.readouterr().err.splitlines()
    assert warnings[0].startswith(f"warning: {bad.path}: ") and warnings[0].endswith("; left out")
    assert warnings[1:] == ["warning: 1 of 4 training images were left out, named above"]


def test_a_bad_image_stops_the_run_where_that_is_asked_for(cohort):
    cases = find_cases(cohort)
    bad = split_cases(cohort, cases).train["CT"][1]
    os.truncate(bad.path, 100)
    with pytest.raises(UserError, match=str(bad.path)):
        prepare_data(changed(cohort, "preprocess", on_bad_volume="stop"), cases, quiet=True)


def test_a_contrast_of_which_nothing_is_left_is_an_error(cohort, capsys):
    cases = find_cases(cohort)
    for case in split_cases(cohort, cases).train["CT"]:
        case.path.write_bytes(b"damaged")
    with pytest.raises(UserError) as caught:
        prepare_data(cohort, cases, quiet=True)
    assert str(caught.value) == "no CT image of the training subjects could be used; the reasons are above"
    assert capsys.readouterr().err.count("; left out") == 2


# ── the statistics ─────────────────────────────────────────────────────────────────────────────────────────────────


def stored(count, **changes):
    statistics = CaseStatistics(0.0, 1.0, True, [1.0, 1.0, 1.0], [0, 1, 2], "", head_slices=(0, 9), slice_mm=1.0)
    return StoredCase(Case("s", "", "T1", "p"), "q", range(count), statistics=replace(statistics, **changes))


def test_the_statistics_of_a_cohort_are_medians_and_sums():
    cohort = [
        stored(3, low=10.0, high=500.0, spacing_mm=[1.0, 1.0, 1.2]),
        stored(5, low=30.0, high=900.0, spacing_mm=[0.9, 0.9, 1.2]),
        stored(2, low=20.0, high=5000.0, spacing_mm=[0.9, 1.0, 5.0]),
    ]
    statistics = cohort_statistics(cohort).to_json()
    assert json.loads(json.dumps(statistics)) == {
        "low": 20.0, "high": 900.0, "integer": True, "spacing_mm": [0.9, 1.0, 1.2], "histogram": [0, 3, 6], "cases": 3,
        "slices": 10,
    }  # fmt: skip
    assert cohort_statistics([stored(1), stored(1, integer=False)]).integer is False


def test_fingerprints_are_kept_and_pictures_are_left_out():
    sizes = {"spacing_mm": [1.0, 1.0, 1.2], "field_mm": [240.0] * 3, "head_mm": [150.0, 190.0, 170.0]}
    volume = stored(1, fingerprint=Fingerprint([0.0] * 64, [0.5] * 64, **sizes))
    statistics = cohort_statistics([volume, stored(1), volume])
    fingerprint = statistics.fingerprint
    assert fingerprint.head == [0.5] * 64 and fingerprint.head_reach == 0
    assert fingerprint.spacing_mm == [[1, 1], [1, 1], [1.2, 1.2]]
    assert ContrastStatistics.from_json(json.loads(json.dumps(statistics.to_json()))) == statistics
    assert cohort_statistics([stored(1)]).fingerprint is None


def test_a_resumed_run_goes_on_with_the_same_data_only():
    before = {"s1_T1": [80, 3.0, 900.0], "s2_T2": [78, 2.0, 800.0]}
    require_same_data(before, dict(before), Path("runs/x"))
    for now in ({"s1_T1": [80, 3.0, 900.0]}, {**before, "s3_T1": [1, 0.0, 1.0]}, {**before, "s2_T2": [78, 2.0, 801.0]}):
        with pytest.raises(UserError, match=r"runs/x: the training data changed since the run began \(s[23]_T[12]\)"):
            require_same_data(before, now, Path("runs/x"))


def test_what_training_sees_changes_with_the_slices_and_the_range_of_each_image():
    def seen(count=3, **changes):
        entries = {"T1": [stored(count, **changes)]}
        return training_data(PreparedData((), None, entries, {}, {}))

    before = seen()
    assert before == {"s_T1": [3, 0.0, 1.0]}
    require_same_data(before, seen(histogram=[9, 9, 9]), Path("runs/x"))
    for change in ({"count": 4}, {"low": 0.5}, {"high": 1.5}):
        with pytest.raises(UserError, match=r"the training data changed since the run began \(s_T1\)"):
            require_same_data(before, seen(**change), Path("runs/x"))
