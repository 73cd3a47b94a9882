import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from head_scans import AFFINE, scan, write_scan

import pipeline.data.pairs as pairs_module
from pipeline.data.case import Case
from pipeline.data.pairs import PairReader
from pipeline.evaluation.evaluate import evaluate
from pipeline.metrics.names import CONTEXT, COPY, HISTOGRAM, LOOKUP, MODEL
from pipeline.metrics.protocols import OWN
from pipeline.metrics.tissue_dice import interior, tissue_agreement
from pipeline.utils.errors import UserError
from transforms.context_lookup import LEVELS, ContextTable, intensity_knots
from transforms.slice_chain import PreprocessSettings

CONTRASTS = ("T1", "T2")
SETTINGS = PreprocessSettings(axis="axial", spacing_mm=None, size=64, n4=False, percentiles=(0.5, 99.5))
MASKED_PSNR, MASKED_SSIM = "volume/foreground/psnr", "volume/foreground/ssim"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three subjects, each with a T1 scan and as T2 a curved negative: what is bright in one is dark in the other."""
    folder = tmp_path_factory.mktemp("cohort")
    cases = []
    for subject in range(3):
        t1 = np.maximum(scan("T1", seed=subject), 0)
        head = t1 > 30
        for contrast, voxels in (("T1", t1), ("T2", np.where(head, 700 * (1 - t1 / 700) ** 2, 0).astype(np.float32))):
            path = write_scan(folder / contrast / f"s{subject}.nii.gz", voxels, AFFINE)
            cases.append(Case(f"s{subject}", "", contrast, path))
    return cases


@pytest.fixture(scope="module")
def setting(tmp_path_factory, cohort):
    """The keyword arguments of `evaluate` that every test shares."""
    reader = PairReader(SETTINGS, 16, register=True, registrations=tmp_path_factory.mktemp("cache"))
    histograms = {}
    for contrast in CONTRASTS:
        prepared = reader.scan(next(case.path for case in cohort if case.contrast == contrast))
        histograms[contrast] = np.histogram(prepared.stack[prepared.foreground], bins=256, range=(-1, 1))[0]
    return {"reader": reader, "histograms": histograms, "quiet": True}


def evaluated(*arguments, **options):
    """The scores of an evaluation."""
    return evaluate(*arguments, **options)[0]


def invert(scan, to):
    """Roughly the true translation: the right direction, but straight where the truth is curved."""
    return np.where(scan.slices > -0.95, -scan.slices, -1).astype(np.float32)


def subjects(cohort, *names):
    return [case for case in cohort if case.subject in names]


def pair(cohort, name):
    return tuple(subjects(cohort, name))


def test_a_good_model_beats_the_baselines_in_both_directions_and_the_lookup_beats_copying(cohort, setting):
    scores = evaluated(subjects(cohort, "s0", "s1"), [pair(cohort, "s2")], CONTRASTS, invert, **setting)
    assert scores.paired and not scores.failures
    for direction in (CONTRASTS, CONTRASTS[::-1]):
        psnr = {system: scores.mean(*direction, system, MASKED_PSNR) for system in (MODEL, COPY, HISTOGRAM, LOOKUP)}
        assert psnr[MODEL] > psnr[COPY] + 5 and psnr[MODEL] > psnr[HISTOGRAM] + 5
        assert psnr[LOOKUP] > psnr[MODEL] + 2  # it follows the curve
        assert scores.mean(*direction, MODEL, MASKED_SSIM) > scores.mean(*direction, COPY, MASKED_SSIM)
    assert scores.mean("T2", "T1", LOOKUP, MASKED_PSNR) > 27  # 24.8 for a table of the other direction
    assert {score.subject for score in scores.subjects} == {"s0", "s1"}
    assert "fitted on 1 training pairs" in " ".join(scores.notes)


def test_the_context_lookup_is_scored_where_it_was_fitted_with_and_without_pairs(cohort, setting):
    values = np.broadcast_to(-intensity_knots()[:, None, None], LEVELS)
    setting = setting | {"context_tables": {contrast: ContextTable(values, (1.0, 3.0)) for contrast in CONTRASTS}}
    scores = evaluated(subjects(cohort, "s0"), [], CONTRASTS, invert, **setting)
    for direction in (CONTRASTS, CONTRASTS[::-1]):
        psnr = {system: scores.mean(*direction, system, MASKED_PSNR) for system in (COPY, CONTEXT)}
        assert psnr[CONTEXT] > psnr[COPY] + 5
    unpaired = evaluated(subjects(cohort, "s0")[:1], [], CONTRASTS, invert, **setting)
    assert {score.system for score in unpaired.subjects} == {MODEL, COPY, HISTOGRAM, CONTEXT}


def test_structure_is_measured_for_the_model_and_every_baseline_on_the_sources_grid(cohort, setting):
    scores = evaluated(subjects(cohort, "s0"), [pair(cohort, "s2")], CONTRASTS, invert, **setting)
    reader = setting["reader"]
    view, _, _ = reader.read(pair(cohort, "s0"))
    region = interior(view.foreground, (4.8, 4.5, 4.6))
    copied = tissue_agreement(view.source.stack, view.real, region)
    assert scores.mean("T1", "T2", COPY, "volume/interior/dice") == copied["dice"]
    assert scores.mean("T1", "T2", COPY, "volume/interior/dice_bright") == copied["dice_bright"]
    for direction in (CONTRASTS, CONTRASTS[::-1]):
        figures = {
            figure: [scores.mean(*direction, system, f"volume/{figure}") for system in (MODEL, COPY, HISTOGRAM, LOOKUP)]
            for figure in ("interior/dice", "foreground/nmi", "foreground/slice_ratio")
        }
        _, copy, matched, lookup = figures["interior/dice"]
        assert lookup > 0.9 and max(copy, matched) < 0.45  # these have dark and bright the wrong way round
        assert min(figures["foreground/nmi"]) > 1.3  # and yet say as much of the target
        assert 0.3 < min(figures["foreground/slice_ratio"]) < max(figures["foreground/slice_ratio"]) < 3


def test_regions_are_measured_for_every_system_in_both_directions_and_missing_ones_noted(cohort, setting, tmp_path):
    bright = scan("T1") > 350  # white matter
    path = write_scan(tmp_path / "tissue.nii.gz", np.where(bright, 4, 0).astype(np.uint8), AFFINE)
    damaged = tmp_path / "lesion.nii.gz"
    damaged.write_bytes(b"nothing")
    regions = {"s0": {"tissue": path, "lesion": damaged}}
    scores = evaluated(subjects(cohort, "s0", "s1"), [], CONTRASTS, invert, regions=regions, **setting)
    for direction in (CONTRASTS, CONTRASTS[::-1]):
        for system in (MODEL, COPY, HISTOGRAM):
            figures = [scores.mean(*direction, system, f"volume/tissue/{label}/psnr") for label in ("4", "outside")]
            assert len(set(figures)) == 2 and np.isfinite(figures).all()
    measured = {row.region: row.n for row in scores.summary() if row.system == MODEL}
    assert measured["tissue/4"] == 1 and measured["foreground"] > 1
    notes = " ".join(scores.notes)
    assert "no file of the region tissue for 1 of 2 test scans: s1" in notes
    assert "the region lesion of one scan was left out" in notes and "lesion.nii.gz" in notes
    assert "tissue/4" not in scores.text().partition("note:")[0]


def test_a_model_that_knows_the_answer_is_perfect_in_every_figure(cohort, setting):
    reader = setting["reader"]
    answers = {case.contrast: reader.scan(case.path).slices for case in subjects(cohort, "s0")}
    protocols = ["syndiff", "selfrdb", "reggan"]
    test = subjects(cohort, "s0")
    scores = evaluated(test, [], CONTRASTS, lambda _, to: answers[to], protocols=protocols, **setting)
    assert {score.protocol for score in scores.subjects} == {"own", *protocols}
    assert scores.mean("T1", "T2", MODEL, "slice/image/psnr", "syndiff") > 100
    assert {score.system for score in scores.subjects} == {MODEL, COPY, HISTOGRAM}
    assert "no training subject has both contrasts, so there is no lookup" in scores.text()
    for unit in ("volume", "slice"):
        for region in ("image", "foreground"):
            figures = {
                m: scores.mean("T1", "T2", MODEL, f"{unit}/{region}/{m}") for m in ("mae", "nrmse", "psnr", "ssim")
            }
            assert figures == pytest.approx({"mae": 0, "nrmse": 0, "psnr": math.inf, "ssim": 1})


def test_padding_counts_for_nothing(cohort, setting):
    def wrong_in_the_padding(scan, to):
        translated = invert(scan, to)
        translated[:, :4], translated[:, -4:] = 1, 1
        return translated

    test = subjects(cohort, "s0")
    clean = evaluated(test, [], CONTRASTS, invert, **setting)
    spoiled = evaluated(test, [], CONTRASTS, wrong_in_the_padding, **setting)
    assert clean.mean("T1", "T2", MODEL, "volume/image/psnr") == spoiled.mean("T1", "T2", MODEL, "volume/image/psnr")


def test_test_scans_without_a_partner_are_named_in_the_notes(cohort, setting):
    unpaired_cases = [Case(f"lone{number}", "", "T1", Path("absent.nii")) for number in range(1, 8)]
    notes = []
    for scans in (unpaired_cases[:1], unpaired_cases):
        scores = evaluated([*subjects(cohort, "s0"), *scans], [], CONTRASTS, invert, **setting)
        notes.append([note for note in scores.notes if "partner" in note])
    five = ", ".join(f"lone{number}_T1" for number in range(1, 6))
    assert notes == [
        ["1 test scan has no partner in the other contrast and was not scored: lone1_T1"],
        [f"7 test scans have no partner in the other contrast and were not scored: {five} and 2 more"],
    ]


def test_no_baseline_sees_the_test_subjects_own_target(cohort, setting, tmp_path, monkeypatch):
    def fingerprint(prediction, *_):
        return {"volume/image/power": np.array([np.mean(prediction**2)])}

    monkeypatch.setattr("pipeline.evaluation.scores.OWN", dataclasses.replace(OWN, measure=fingerprint))
    t1_case, t2 = subjects(cohort, "s0")[0], np.maximum(scan("T2"), 0)
    fingerprints = []
    for number, target in enumerate((t2, t2**0.5)):
        path = write_scan(tmp_path / f"{number}.nii.gz", target)
        test = [dataclasses.replace(t1_case, subject="x"), Case("x", "", "T2", path)]
        scores = evaluated(test, [pair(cohort, "s1")], CONTRASTS, invert, **setting)
        systems = (MODEL, COPY, HISTOGRAM, LOOKUP)
        fingerprints.append([scores.mean("T1", "T2", system, "volume/image/power") for system in systems])
    assert fingerprints[0] == fingerprints[1] and not np.isnan(fingerprints).any()


def test_a_subject_that_cannot_be_read_is_named_and_the_others_count(cohort, setting, tmp_path, capsys):
    broken = tmp_path / "s9-T2.nii.gz"
    broken.write_bytes(b"nothing of the kind")
    bad = [Case("s9", "", "T1", subjects(cohort, "s0")[0].path), Case("s9", "", "T2", broken)]
    scores = evaluated([*subjects(cohort, "s0"), *bad], [], CONTRASTS, invert, **setting)
    assert list(scores.failures) == ["s9"] and "s9-T2.nii.gz" in scores.failures["s9"]
    assert {score.subject for score in scores.subjects} == {"s0"}
    assert "warning: s9: " in capsys.readouterr().err
    assert "left out: s9: " in scores.text()
    with pytest.raises(UserError, match=r"^s9: .*on_bad_volume: skip would evaluate without it"):
        evaluated([*subjects(cohort, "s0"), *bad], [], CONTRASTS, invert, **setting, on_bad_volume="stop")
    with pytest.raises(UserError, match=r"no test subject to evaluate; set split\.test"):
        evaluated([], [], CONTRASTS, invert, **setting)
    with pytest.raises(UserError, match="none of 1 test subjects could be evaluated"):
        evaluated(bad, [], CONTRASTS, invert, **setting)


def test_the_movement_that_was_used_is_saved_with_the_run(cohort, setting, tmp_path, monkeypatch):
    rigid_transform = np.eye(4)
    rigid_transform[0, 3] = 2.5
    monkeypatch.setattr(pairs_module, "register_rigid", lambda *_: rigid_transform)
    other = write_scan(tmp_path / "x.nii.gz", np.maximum(scan("T2", shape=(36, 44, 33)), 0))
    test = [Case("x", "day1", "T1", subjects(cohort, "s0")[0].path), Case("x", "day1", "T2", other)]
    evaluated(test, [], CONTRASTS, invert, registrations=tmp_path / "registration", **setting)
    (saved,) = (tmp_path / "registration").iterdir()
    assert saved.name == "x_day1_T1-to-T2.json"
    assert json.loads(saved.read_text())["matrix"] == rigid_transform.tolist()


def test_without_pairs_cycle_error_and_intensity_distance_are_measured_and_the_table_says_so(cohort, setting):
    test = [subjects(cohort, "s0")[0], subjects(cohort, "s1")[1]]  # a T1 of one subject, a T2 of another
    scores = evaluated(test, [], CONTRASTS, invert, **setting)
    assert not scores.paired and "there were no pairs" in scores.text()
    distance = {
        system: scores.mean("T1", "T2", system, "volume/foreground/intensity_distance", "unpaired")
        for system in (MODEL, COPY, HISTOGRAM)
    }
    assert distance[HISTOGRAM] < 0.02 < distance[MODEL] < 0.2 < distance[COPY]
    assert scores.mean("T2", "T1", MODEL, "volume/foreground/cycle_error", "unpaired") < 0.1  # there and back
    assert math.isnan(scores.mean("T2", "T1", COPY, "volume/foreground/cycle_error", "unpaired"))
