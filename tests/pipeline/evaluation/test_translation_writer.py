from dataclasses import replace

import numpy as np
import pytest
import torch
from head_scans import AFFINE, SHAPE, scan, write_scan
from nibabel.affines import apply_affine, from_matvec
from PIL import Image
from torch import nn

import pipeline.evaluation.translation_writer as writer
from pipeline.data.case import Case, other_contrast, pairs
from pipeline.data.pairs import PairReader
from pipeline.data.statistics import ContrastStatistics
from pipeline.evaluation.scores import Scores, SubjectScore, Translation
from pipeline.inference import translator
from pipeline.inference.model import TranslationModel
from pipeline.inference.output_volume import write_volume
from pipeline.runs.folder import RunFolder
from pipeline.training.callbacks import save_sample
from transforms.label_maps import LabelMap
from transforms.slice_chain import PreprocessSettings
from transforms.slices import cut_slices

CONTRASTS = ("T1", "T2")
WIDE_SHAPE = tuple(count + 12 for count in SHAPE)  # six voxels of air more on every side
WIDE_AFFINE = from_matvec(AFFINE[:3, :3], apply_affine(AFFINE, [-6, -6, -6]))
SETTINGS = PreprocessSettings(axis="axial", spacing_mm=None, size=64, n4=False, percentiles=(0.5, 99.5))


@pytest.fixture
def model():
    statistics = {
        "T1": ContrastStatistics(0.0, 900.0, integer=True), "T2": ContrastStatistics(12.5, 1028.4, integer=True),
    }  # fmt: skip
    translators = {contrast: nn.Identity() for contrast in CONTRASTS}
    return TranslationModel(CONTRASTS, translators, SETTINGS, statistics, 4, torch.device("cpu"))


def write(cases, model, folder):
    """Write the translations of cases by a network that copies."""
    reader, volumes = PairReader(model.settings, 4, register=False, registrations=folder.path / "cache"), []
    for case in cases:
        scan = reader.scan(case.path)
        slices = writer.translate_scan(scan, other_contrast(CONTRASTS, case.contrast), model, 8)
        translation = Translation(case, other_contrast(CONTRASTS, case.contrast), scan, slices)
        volumes.append(writer.write_translation(folder, writer.without_networks(model), translation))
    return volumes


# ── pictures of the training ────────────────────────────────────────────────────────────────────────────────


def test_a_gif_has_a_frame_for_every_sample_there_is_in_order_of_epoch(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (10, 0, 2):  # 0 and 2 from an earlier sitting
        for direction in ("T1_to_T2", "T2_to_T1"):
            save_sample(folder.samples, direction, epoch, np.full((40, 60, 3), 20 * epoch, np.uint8))
    assert list(writer.sample_frames(folder, "T1_to_T2")) == [0, 2, 10]
    gifs = writer.draw_gifs(folder, CONTRASTS)
    assert gifs == {direction: tmp_path / f"training_{direction}.gif" for direction in ("T1_to_T2", "T2_to_T1")}
    with Image.open(gifs["T1_to_T2"]) as gif:
        levels = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            levels.append(np.asarray(gif.convert("L"))[-5, 5])
    np.testing.assert_allclose(levels, [0, 40, 200], atol=3)


# ── test volumes ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("spacing_mm", [None, (3.0, 6.0)])
def test_what_is_written_is_what_the_file_alone_would_translate_to_to_the_byte(model, spacing_mm, tmp_path):
    model = replace(model, settings=replace(SETTINGS, spacing_mm=spacing_mm))
    case = Case("s", "", "T1", write_scan(tmp_path / "s.nii.gz", scan("T1")))
    (volume,) = write([case], model, RunFolder(tmp_path / "run"))
    write_volume(translator.translate(case.path, model, "T2"), tmp_path / "alone.nii.gz")
    assert volume.path.read_bytes() == (tmp_path / "alone.nii.gz").read_bytes()


def test_a_picture_comes_back_as_a_gray_picture_of_its_own_size_the_same_way_round(model, tmp_path):
    levels = np.random.default_rng(0).integers(1, 255, (50, 37), dtype=np.uint8)
    levels[:, :3], levels[:9] = 0, 255
    source = tmp_path / "Image #10.png"
    Image.fromarray(levels).convert("RGBA").save(source)
    model = replace(model, settings=replace(SETTINGS, percentiles=None))
    (volume,) = write([Case("T1-Image #10", "", "T1", source)], model, RunFolder(tmp_path / "run"))
    assert volume.path.name == "T1-Image #10_T1_to_T2.png"
    with Image.open(volume.path) as picture:
        assert picture.mode == "L"
        np.testing.assert_allclose(np.asarray(picture).astype(int), levels, atol=1)


# ── the viewer: which subjects ────────────────────────────────────────────────────────────────────────────────


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
    return PairReader(SETTINGS, 4, register=False, registrations=folder)


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
    """What the viewer shows of test cases, all of which were translated but those that failed."""
    files, read = {}, reader(folder)
    coupled = pairs(test, CONTRASTS)
    for pair in coupled:
        for source, view in zip(pair, read.read(pair)[:2], strict=True):
            files[source] = write_volumes(folder, model, source, view.source, view)
    for case in [] if coupled else [case for case in test if case.name not in run_scores.failures]:
        files[case] = write_volumes(folder, model, case, read.scan(case.path))
    return writer.subjects_to_view(test, run_scores, CONTRASTS, files)


def write_volumes(folder, model, case, scan, view=None):
    translation = Translation(case, other_contrast(CONTRASTS, case.contrast), scan, -scan.slices, view)
    return writer.write_viewer_volumes(folder, model.statistics, translation)


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


@pytest.mark.parametrize("axis", ["axial", "sagittal"])
def test_regions_of_a_pair_come_with_it_on_the_same_grid_and_a_lone_scan_has_none(files, model, tmp_path, axis):
    pair_reader = PairReader(replace(SETTINGS, axis=axis), 4, register=False, registrations=tmp_path)
    source, partner = cases("a", files)
    first, _, _ = pair_reader.read((source, partner))
    dark = (first.source.volume < 0).astype(np.uint8)
    regions = {"dark half.x": LabelMap(cut_slices(dark, axis), (5,)), "none": LabelMap(cut_slices(0 * dark, axis), ())}
    written = {
        source: write_volumes(tmp_path, model, source, first.source, replace(first, regions=regions)),
        partner: write_volumes(tmp_path, model, partner, pair_reader.scan(partner.path)),
    }
    viewed, alone = writer.subjects_to_view([source, partner], Scores(paired=False), CONTRASTS, written)
    assert alone.regions == {} and list(viewed.regions) == ["dark half.x", "none"]
    assert viewed.regions["dark half.x"].labels == (5,) and viewed.regions["none"].labels == ()
    np.testing.assert_array_equal(viewed.regions["dark half.x"].indices, viewed.source < 127.5)


@pytest.mark.parametrize("fetched", [True, False])
def test_the_viewers_files_lie_in_a_folder_that_goes_and_without_its_package_one_line_says_how_to_get_it(
    tmp_path, monkeypatch, capsys, fetched
):
    monkeypatch.setattr(writer, "is_fetched", lambda: fetched)
    with writer.viewer_folder(tmp_path) as folder:
        assert folder is None if not fetched else folder.is_dir() and tmp_path in folder.parents
    assert list(tmp_path.iterdir()) == []
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (not fetched)
    assert all(
        "no interactive viewer" in line and "npm ci --prefix" in line and "make viewer" in line for line in lines
    )
