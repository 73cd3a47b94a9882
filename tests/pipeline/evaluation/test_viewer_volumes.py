import numpy as np
import pytest
import torch
from head_scans import AFFINE, SHAPE, scan, write_scan
from nibabel.affines import apply_affine, from_matvec
from torch import nn

import pipeline.evaluation.viewer_volumes as viewer_module
from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PairReader
from pipeline.data.statistics import ContrastStatistics
from pipeline.evaluation.evaluate import Translation
from pipeline.evaluation.scores import Scores, SubjectScore
from pipeline.evaluation.viewer_volumes import ViewerVolumes, collect_viewer_volumes, rank_names, subjects_to_view
from pipeline.inference.model import TranslationModel
from transforms.slice_chain import PreprocessSettings

CONTRASTS = ("T1", "T2")
WIDE_SHAPE = tuple(count + 12 for count in SHAPE)  # six voxels of air more on every side
WIDE_AFFINE = from_matvec(AFFINE[:3, :3], apply_affine(AFFINE, [-6, -6, -6]))
SETTINGS = PreprocessSettings(axis="axial", spacing_mm=None, size=64, n4=False, percentiles=(0.5, 99.5))


def negative(module=nn.Identity()):  # noqa: B008  (a network without a state)
    """A network whose translation is the input with its sign changed."""
    module.forward = lambda image: -image
    return module


@pytest.fixture
def model():
    facts = {"T1": ContrastStatistics(0.0, 900.0, integer=True), "T2": ContrastStatistics(12.5, 1028.4, integer=True)}
    return TranslationModel(CONTRASTS, dict.fromkeys(CONTRASTS, negative()), SETTINGS, facts, 4, torch.device("cpu"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    voxels = {
        contrast: scan(contrast, seed=seed, shape=WIDE_SHAPE, affine=WIDE_AFFINE)
        for seed, contrast in enumerate(CONTRASTS)
    }
    return {
        contrast: write_scan(folder / f"{contrast}.nii.gz", array, WIDE_AFFINE) for contrast, array in voxels.items()
    }


def cases(subjects, files, session=""):
    return [Case(name, session, contrast, files[contrast]) for name in subjects for contrast in CONTRASTS]


def reader(folder):
    return PairReader(SETTINGS, 4, register=False, cache=folder)


def scores(forward, backward=None):
    """Scores with a masked PSNR for each subject, by direction; the baselines' are all higher."""
    subject_scores = []
    for direction, figures in ((CONTRASTS, forward), (CONTRASTS[::-1], backward or forward)):
        for name, psnr in figures.items():
            for system, more in (("model", 0), ("copy", 50)):
                measured = {"volume/foreground/psnr": np.array([psnr + more])}
                subject_scores.append(SubjectScore(name, *direction, system, "own", measured))
    return Scores(paired=True, subjects=subject_scores)


def view(test, run_scores, model, folder):
    candidates, read = ViewerVolumes(folder, model), reader(folder)
    coupled = pairs(test, CONTRASTS)
    for pair in coupled:
        for source, view in zip(pair, read.read(pair)[:2], strict=True):
            candidates.add(translation(source, view.source, view))
    for case in [] if coupled else [case for case in test if case.name not in run_scores.failures]:
        candidates.add(translation(case, read.scan(case.path)))
    return subjects_to_view(test, run_scores, candidates)


def translation(case, scan, view=None):
    return Translation(case, CONTRASTS[1 - CONTRASTS.index(case.contrast)], scan, -scan.slices, view)


# ── which subjects ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (0, {}),
        (1, {"only": 0}),
        (2, {"worst": 0, "best": 1}),
        (3, {"worst": 0, "median": 1, "best": 2}),
        (9, {"worst": 0, "median": 4, "best": 8}),
    ],
)
def test_ranks_are_named(count, names):
    assert rank_names(count) == names


def test_the_worst_the_median_and_the_best_of_each_direction_are_shown(files, model, tmp_path):
    forward = {"a": 14.0, "b": 11.0, "c": 13.0, "d": 10.0, "e": np.nan}
    backward = {"a": 9.0, "b": 11.0, "c": 13.0, "d": 10.0, "e": 12.0}
    subjects = view(cases("abcde", files), scores(forward, backward), model, tmp_path)
    assert [(subject.source_name, subject.target_name, subject.label) for subject in subjects] == [
        ("T1", "T2", "worst: d, 10.00 dB masked PSNR"),
        ("T1", "T2", "median: c, 13.00 dB masked PSNR"),
        ("T1", "T2", "best: a, 14.00 dB masked PSNR"),
        ("T2", "T1", "worst: a, 9.00 dB masked PSNR"),
        ("T2", "T1", "median: b, 11.00 dB masked PSNR"),
        ("T2", "T1", "best: c, 13.00 dB masked PSNR"),
    ]


def test_sessions_are_told_apart(files, model, tmp_path):
    test = cases("a", files, "1") + cases("a", files, "2")
    subjects = view(test, scores({"a_1": 10.0, "a_2": 12.0}), model, tmp_path)
    assert [subject.label for subject in subjects[:2]] == [
        "worst: a_1, 10.00 dB masked PSNR",
        "best: a_2, 12.00 dB masked PSNR",
    ]


def test_without_pairs_the_first_scans_of_each_contrast_are_shown_without_a_real_target(files, model, tmp_path):
    test = [Case(name, "", "T1", files["T1"]) for name in "abcde"] + [Case("z", "", "T2", files["T2"])]
    subjects = view(test, Scores(paired=False, failures={"b_T1": "damaged"}), model, tmp_path)
    assert [(subject.label, subject.target_name) for subject in subjects] == [
        ("a", "T2"),
        ("c", "T2"),
        ("d", "T2"),
        ("z", "T1"),
    ]
    assert all(subject.real is None for subject in subjects)


def test_what_was_not_kept_is_left_out(files, model, tmp_path):
    test = cases("ab", files)
    candidates, read = ViewerVolumes(tmp_path, model), reader(tmp_path)
    view = read.read(tuple(test[2:]))[0]
    candidates.add(translation(test[2], view.source, view))
    subjects = subjects_to_view(test, scores({"a": 10.0, "b": 12.0}), candidates)
    assert [(subject.label[:7], subject.source_name) for subject in subjects] == [("best: b", "T1")]


# ── what is shown of them ───────────────────────────────────────────────────────────────────────────────────


def test_source_translation_and_real_target_lie_on_the_sources_grid(files, model, tmp_path):
    forward, backward = view(cases("a", files), scores({"a": 10.0}), model, tmp_path)
    assert forward.label == "only: a, 10.00 dB masked PSNR"
    assert forward.source.shape == forward.translated.shape == forward.real.shape < WIDE_SHAPE  # cut to the head
    inside = forward.source > 20
    np.testing.assert_allclose(forward.translated[inside], 255 - forward.source[inside].astype(float), atol=1)
    np.testing.assert_array_equal(forward.real, backward.source)
    np.testing.assert_array_equal(backward.real, forward.source)
    whole = reader(tmp_path).scan(files["T1"]).volume
    first = np.rint(apply_affine(np.linalg.inv(WIDE_AFFINE), forward.affine[:3, 3])).astype(int)
    box = tuple(slice(start, start + count) for start, count in zip(first, forward.source.shape, strict=True))
    np.testing.assert_allclose(forward.source / 127.5 - 1, whole[box], atol=1 / 255 + 1e-6)
    assert forward.units.startswith("In a T2 scan as the model was trained on, -1 is 12.5 and +1 is 1028 in")


def test_translations_wait_in_files_that_go_when_the_report_is_made(files, model, tmp_path, monkeypatch):
    monkeypatch.setattr(viewer_module, "is_fetched", lambda: True)
    (case, _) = cases("a", files)
    with collect_viewer_volumes(tmp_path, model) as candidates:
        candidates.add(translation(case, reader(tmp_path).scan(case.path)))
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
        assert candidates.get(case, "here").translated.dtype == np.uint8
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_one_line_says_how_to_get_it_and_nothing_is_kept(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(viewer_module, "is_fetched", lambda: False)
    with collect_viewer_volumes(tmp_path, model) as candidates:
        assert candidates is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "no interactive viewer" in line and "npm ci --prefix" in line and "make viewer" in line
    assert list(tmp_path.iterdir()) == []
