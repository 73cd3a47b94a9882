import json

import pytest
import yaml
from finished_runs import BASELINES, SPLIT, bound, finished_run, read_runs

from pipeline.comparison.comparability import require_comparable
from pipeline.comparison.notes import run_notes
from pipeline.utils.errors import UserError


@pytest.fixture
def two(tmp_path):
    """The folders of two runs that may be compared."""
    return [finished_run(tmp_path, "a"), finished_run(tmp_path, "b")]


def change_scores(folder, key, change):
    """Replace one part of a run's scores."""
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {key: change(scores[key])}))


def refusal(tmp_path, **different):
    """What is said of a run that differs from another in something."""
    folders = [finished_run(tmp_path, "a"), finished_run(tmp_path, "b", 14.0, **different)]
    with pytest.raises(UserError) as caught:
        require_comparable(read_runs(folders))
    return [line.strip().replace(f"{tmp_path}/", "") for line in str(caught.value).splitlines()[1:]]


def test_runs_that_differ_in_method_seed_and_length_may_be_compared(tmp_path):
    method = {"seed": 3, "training": {"epochs": 7}, "generator": {"width": 8}, "augment": {"jitter": 1.5}}
    moved = {"data": {"folder": "elsewhere"}, "preprocess": {"store": "other", "processes": 3}}
    folders = [finished_run(tmp_path, "a"), finished_run(tmp_path, "b", settings=method | moved)]
    require_comparable(read_runs(folders))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preprocess": {"percentiles": [1, 99]}}, "preprocess.percentiles: [0.5, 99.5] in a, [1.0, 99.0] in b"),
        ({"evaluation": {"register_pairs": False}}, "evaluation.register_pairs: True in a, False in b"),
        (
            {"data": {"patterns": {"T1": "x{subject}", "T2": "y{subject}"}}},
            "data.patterns: {'T1': '{subject}_T1.nii', 'T2': '{subject}_T2.nii'} in a, "
            "{'T1': 'x{subject}', 'T2': 'y{subject}'} in b",
        ),
    ],
)
def test_a_setting_that_changes_what_figures_mean_is_named_with_both_values(tmp_path, settings, message):
    assert refusal(tmp_path, settings=settings) == [message]


def test_regions_may_be_measured_by_one_run_alone_but_not_by_two_in_other_files(tmp_path):
    lesion = {"data": {"regions": {"lesion": "{subject}_l.nii"}}}
    tissue = {"data": {"regions": {"lesion": "{subject}_l.nii", "tissue": "{subject}_t.nii"}}}
    folders = [finished_run(tmp_path, name, settings=own) for name, own in (("a", {}), ("b", lesion), ("c", tissue))]
    require_comparable(read_runs(folders))
    other = {"data": {"regions": {"lesion": "{subject}_other.nii"}}}
    with pytest.raises(UserError, match=r"data.regions.lesion: '\{subject\}_l.nii' in .*b, '\{subject\}_other.nii' in"):
        require_comparable(read_runs([folders[1], finished_run(tmp_path, "d", settings=other)]))


def test_another_source_of_data_is_named(two):
    path = two[1] / "config.yaml"
    settings = yaml.safe_load(path.read_text()) | {"data": {"source": "ixi", "folder": "x"}}
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match=r"data.source: 'nifti' in .*a, 'ixi' in .*b"):
        require_comparable(read_runs(two))


@pytest.mark.parametrize(
    ("part", "names", "message"),
    [
        ("test", ["s1", "s2", "s3", "s4", "s5", "s6", "new"], "test subjects: s7 only in a, new only in b"),
        ("validation", ["v", "w"], "validation subjects: none of its own in a, w only in b"),
        ("train", {"T1": ["t2"], "T2": ["t1"]}, "training T1 subjects: t1 only in a, t2 only in b"),
    ],
)
def test_another_split_is_named_with_those_whom_only_one_run_has(tmp_path, part, names, message):
    assert message in refusal(tmp_path, split={**SPLIT, part: names})


def test_a_method_that_learns_from_pairs_may_train_on_others_but_must_test_on_the_same(tmp_path):
    train = {"T1": ["t1", "t2"], "T2": ["t1", "t2"]}
    paired = {"settings": bound()}
    folders = [finished_run(tmp_path, "a"), finished_run(tmp_path, "c", split={**SPLIT, "train": train}, **paired)]
    require_comparable(read_runs(folders))
    output = refusal(tmp_path / "more", split={**SPLIT, "train": train, "validation": ["w"]}, **paired)
    assert output == ["validation subjects: v only in a, w only in b"]


def test_an_unpaired_method_on_a_paired_split_is_no_rival_of_one_that_saw_half_as_much(tmp_path):
    train = {"T1": ["t1", "t2"], "T2": ["t1", "t2"]}
    output = refusal(tmp_path, split={**SPLIT, "train": train}, settings={"split": {"pairing": "paired"}})
    assert [line.partition(":")[0] for line in output] == ["training T1 subjects", "training T2 subjects"]


def test_pairs_beside_others_change_the_training_subjects_and_that_is_no_reason(tmp_path):
    beside = {**SPLIT, "train": {"T1": ["t1", "t3"], "T2": ["t2", "t3"]}, "pairs": ["t3"]}
    runs = read_runs([finished_run(tmp_path, "a"), finished_run(tmp_path, "b", split=beside)])
    require_comparable(runs)
    note = "b was shown 1 training subject in both contrasts, as pairs: t3; an unpaired method sees none."
    assert note in run_notes(runs)
    other = {**beside, "train": {"T1": ["t3"], "T2": ["t2", "t3"]}}
    with pytest.raises(UserError, match="training T1 subjects: t1 only"):
        require_comparable(read_runs([tmp_path / "b", finished_run(tmp_path, "c", split=other)]))


def test_a_protocol_in_other_words_is_another_protocol(two):
    change_scores(two[1], "protocols", lambda texts: {**texts, "own": "as it was last year"})
    with pytest.raises(UserError, match=r"our own protocol: .intensities in .* in .*a, 'as it was last year' in .*b"):
        require_comparable(read_runs(two))


def test_a_subject_that_one_run_could_not_score_is_named(two):
    change_scores(two[1], "subjects", lambda rows: [row for row in rows if row["subject"] != "s4"])
    with pytest.raises(UserError, match=r"could be scored, T1 → T2: s4 only in .*a, none of its own in"):
        require_comparable(read_runs(two))


def test_images_that_differ_are_betrayed_by_the_baselines(tmp_path):
    (output,) = refusal(tmp_path, baselines={**BASELINES, "copy": 9.1})
    assert output == "copy, T1 → T2, foreground/psnr of s1 (so the images differ): 9 in a, 9.1 in b"


def test_another_training_cohort_changes_what_is_fitted_on_it_and_that_is_no_reason(tmp_path):
    train = {"T1": ["t1", "t2"], "T2": ["t1", "t2"]}
    other = {**BASELINES, "histogram matching": 11.5}
    settings = bound()
    folders = [
        finished_run(tmp_path, "a"),
        finished_run(tmp_path, "c", split={**SPLIT, "train": train}, settings=settings, baselines=other),
    ]
    require_comparable(read_runs(folders))
    (output,) = refusal(tmp_path / "same", baselines=other)
    assert output.startswith("histogram matching, T1 → T2")


def test_the_differences_of_several_runs_are_all_named(tmp_path):
    folders = [finished_run(tmp_path, "a")]
    folders += [finished_run(tmp_path, name, settings={"preprocess": {"size": 128, "n4": True}}) for name in ("b", "c")]
    with pytest.raises(UserError) as caught:
        require_comparable(read_runs(folders))
    assert str(caught.value).count("preprocess.size") == str(caught.value).count("preprocess.n4") == 2


@pytest.mark.parametrize("order", ["bound a b", "a bound b"])
def test_a_bound_vouches_for_no_other_runs_training_subjects(tmp_path, order):
    other = {**SPLIT, "train": {"T1": ["t1"], "T2": ["t3"]}}
    different = {"bound": {"settings": bound(), "split": other}, "a": {}, "b": {"split": other}}
    folders = [finished_run(tmp_path, name, **different[name]) for name in order.split()]
    with pytest.raises(UserError, match=r"training T2 subjects: t2 only in .*/a, t3 only in .*/b") as caught:
        require_comparable(read_runs(folders))
    assert str(caught.value).count("training T2") == 1
