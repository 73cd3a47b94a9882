from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from head_scans import scan, write_scan
from PIL import Image
from torch import nn

from pipeline.data.case import Case
from pipeline.data.pairs import PairReader
from pipeline.data.statistics import ContrastStatistics
from pipeline.evaluation.evaluate import Translation
from pipeline.evaluation.translation_writer import TranslationWriter, draw_curves, draw_gifs, sample_frames
from pipeline.inference import translator
from pipeline.inference.model import TranslationModel
from pipeline.inference.output_volume import write_volume
from pipeline.runs.folder import RunFolder
from pipeline.tracking.metrics_file import MetricsFile
from pipeline.training.validation import save_sample
from transforms.slice_chain import PreprocessSettings

CONTRASTS = ("T1", "T2")
SETTINGS = PreprocessSettings(axis="axial", spacing_mm=None, size=64, n4=False, percentiles=(0.5, 99.5))


def model(settings, low=0.0, high=1000.0):
    facts = {contrast: ContrastStatistics(low, high, integer=True) for contrast in CONTRASTS}
    translators = {contrast: nn.Identity() for contrast in CONTRASTS}
    return TranslationModel(CONTRASTS, translators, settings, facts, 4, torch.device("cpu"))


def translate(cases, settings, folder):
    reader = PairReader(settings, 4, register=False, cache=folder.path / "cache")
    return TranslationWriter(model(settings), folder, 8).add_rest(cases, reader, True)


# ── pictures of the training ────────────────────────────────────────────────────────────────────────────────


def test_a_gif_has_a_frame_for_every_sample_there_is_in_order_of_epoch(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (10, 0, 2):  # 0 and 2 from an earlier sitting
        for direction in ("T1_to_T2", "T2_to_T1"):
            save_sample(folder.samples, direction, epoch, np.full((40, 60, 3), 20 * epoch, np.uint8))
    assert list(sample_frames(folder, "T1_to_T2")) == [0, 2, 10]
    gifs = draw_gifs(folder, CONTRASTS)
    assert gifs == {direction: tmp_path / f"training_{direction}.gif" for direction in ("T1_to_T2", "T2_to_T1")}
    with Image.open(gifs["T1_to_T2"]) as gif:
        levels = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            levels.append(np.asarray(gif.convert("L"))[-5, 5])
    np.testing.assert_allclose(levels, [0, 40, 200], atol=3)


def test_the_curves_are_drawn_from_the_runs_metrics(tmp_path):
    folder = RunFolder(tmp_path)
    metrics = MetricsFile(folder.metrics, None)
    for step in range(1, 20):
        metrics.append({"train/cycle_a": 1 / step, "validation/T1_to_T2/psnr": step}, step)
    metrics.close()
    assert draw_curves(folder, 5) == tmp_path / "curves.png"
    with Image.open(tmp_path / "curves.png") as picture:
        assert min(picture.size) > 100


# ── test volumes ────────────────────────────────────────────────────────────────────────────────────────────


def test_volumes_are_written_on_their_own_grids_with_a_mosaic_each(tmp_path):
    cases = [
        Case("s", "", contrast, write_scan(tmp_path / f"s_{contrast}.nii.gz", scan(contrast, seed=seed)))
        for seed, contrast in enumerate(CONTRASTS)
    ]
    settings = replace(SETTINGS, percentiles=(0.5, 99.5))
    volumes = translate(cases, settings, RunFolder(tmp_path / "run"))
    assert [(volume.case.contrast, volume.target, volume.path.name) for volume in volumes] == [
        ("T1", "T2", "s_T1_to_T2.nii.gz"), ("T2", "T1", "s_T2_to_T1.nii.gz"),
    ]  # fmt: skip
    image, source = nib.load(volumes[0].path), nib.load(cases[0].path)
    assert image.shape == source.shape
    np.testing.assert_array_equal(image.affine, source.affine)
    inside = np.zeros(image.shape, bool)
    inside[10:26, 12:32, 8:26] = True  # the copying network keeps the order of intensities
    assert np.corrcoef(image.get_fdata()[inside], source.get_fdata()[inside])[0, 1] > 0.95
    assert [volume.mosaic.name for volume in volumes] == ["s_T1_to_T2.png", "s_T2_to_T1.png"]
    assert all(min(Image.open(volume.mosaic).size) > 100 for volume in volumes)


@pytest.mark.parametrize("spacing_mm", [None, [3.0, 6.0]])
def test_what_is_written_is_what_the_file_alone_would_translate_to_to_the_byte(spacing_mm, tmp_path):
    settings = replace(SETTINGS, percentiles=(0.5, 99.5), spacing_mm=spacing_mm)
    case = Case("s", "", "T1", write_scan(tmp_path / "s.nii.gz", scan("T1")))
    (volume,) = translate([case], settings, RunFolder(tmp_path / "run"))
    write_volume(translator.translate(case.path, model(settings), "T2"), tmp_path / "alone.nii.gz")
    assert volume.path.read_bytes() == (tmp_path / "alone.nii.gz").read_bytes()


def test_a_translation_that_was_shown_is_not_made_again_and_the_order_is_the_cases(tmp_path, monkeypatch):
    settings = replace(SETTINGS, percentiles=(0.5, 99.5))
    cases = [
        Case("s", "", contrast, write_scan(tmp_path / f"{contrast}.nii.gz", scan(contrast))) for contrast in CONTRASTS
    ]
    reader = PairReader(settings, 4, register=False, cache=tmp_path / "cache")
    read, paths = reader.scan, []
    monkeypatch.setattr(reader, "scan", lambda path: paths.append(path) or read(path))
    writer = TranslationWriter(model(settings), RunFolder(tmp_path / "run"), 8)
    shown = read(cases[1].path)
    writer.add(Translation(cases[1], "T1", shown, shown.slices))
    assert [volume.case for volume in writer.add_rest(cases, reader, True)] == cases
    assert paths == [cases[0].path]


def test_a_scan_that_cannot_be_read_is_named_and_the_others_are_translated(tmp_path, capsys):
    good = write_scan(tmp_path / "good.nii.gz", scan("T1"))
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    cases = [Case("s", "", "T1", good), Case("s", "", "T2", tmp_path / "bad.nii.gz")]
    volumes = translate(cases, replace(SETTINGS, percentiles=(0.5, 99.5)), RunFolder(tmp_path / "run"))
    assert [volume.path.name for volume in volumes] == ["s_T1_to_T2.nii.gz"]
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {tmp_path}/bad.nii.gz") and error.endswith("; not translated\n")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_picture_comes_back_as_a_gray_picture_of_its_own_size_the_same_way_round(tmp_path, mode):
    levels = np.random.default_rng(0).integers(1, 255, (50, 37), dtype=np.uint8)
    levels[:, :3], levels[:9] = 0, 255
    source = tmp_path / "Image #10.png"
    Image.fromarray(levels).convert(mode).save(source)
    settings = replace(SETTINGS, percentiles=None)
    (volume,) = translate([Case("T1-Image #10", "", "T1", source)], settings, RunFolder(tmp_path / "run"))
    assert volume.path.name == "T1-Image #10_T1_to_T2.png"
    with Image.open(volume.path) as picture:
        assert picture.mode == "L"
        np.testing.assert_allclose(np.asarray(picture).astype(int), levels, atol=1)
