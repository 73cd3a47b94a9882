import csv
import json
import math

import numpy as np
import pytest

from pipeline.evaluation.scores import UNPAIRED, Scores, SubjectScore


def subject(name, system, psnr, ssim=0.5, protocol="own", unit="volume"):
    measured = {f"{unit}/foreground/psnr": np.array([psnr]), f"{unit}/foreground/ssim": np.array([ssim])}
    measured[f"{unit}/image/psnr"] = np.array([psnr + 6])
    return SubjectScore(name, "T1", "T2", system, protocol, measured)


@pytest.fixture
def scores():
    rows = [subject("a", "model", 20), subject("b", "model", 24), subject("a", "copy", 10), subject("b", "copy", 10)]
    return Scores(True, rows, failures={"c": "c.nii.gz: damaged"}, notes=["no lookup"])


def test_the_summary_is_over_subjects_for_each_direction_system_and_figure(scores):
    (row,) = [
        row for row in scores.summary() if (row.system, row.region, row.metric) == ("model", "foreground", "psnr")
    ]
    assert (row.source, row.target, row.protocol, row.unit) == ("T1", "T2", "own", "volume")
    assert (row.mean, row.sd, row.n) == pytest.approx((22, math.sqrt(8), 2))
    assert scores.mean("T1", "T2", "copy", "volume/image/psnr") == 16
    assert math.isnan(scores.mean("T2", "T1", "copy", "volume/image/psnr"))


def test_sessions_of_a_subject_count_as_one_subject_whose_mean_is_theirs():
    rows = [subject("01_a", "model", 20), subject("01_b", "model", 22), subject("02_a", "model", 27)]
    scores = Scores(True, rows, subject_of={"01_a": "01", "01_b": "01", "02_a": "02"})
    summary = {(row.region, row.metric): row for row in scores.summary()}
    row = summary["foreground", "psnr"]
    assert (row.mean, row.sd, row.n) == pytest.approx((24, math.sqrt(18), 2))
    assert scores.mean("T1", "T2", "model", "volume/foreground/psnr") == 24


def test_subjects_are_ranked_by_a_figure_ascending_and_nan_has_no_rank(scores):
    scores.subjects.append(subject("d", "model", math.nan))
    assert scores.ranked("T1", "T2") == [(20, "a"), (24, "b")]
    assert scores.ranked("T2", "T1") == []


def test_the_files_hold_summary_subjects_failures_and_what_the_protocol_is(scores, tmp_path):
    paths = scores.save(tmp_path / "evaluation")
    assert [path.name for path in paths] == ["scores.csv", "scores_by_subject.csv", "scores.json"]
    with paths[0].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["source", "target", "system", "protocol", "unit", "region", "metric", "mean", "sd", "n"]
    assert float(rows[0]["mean"]) == 22 and len(rows) == 6
    with paths[1].open(newline="") as stream:
        by_subject = list(csv.DictReader(stream))
    assert [float(row["value"]) for row in by_subject if row["system"] == "model" and row["metric"] == "psnr"][:1] == [
        20
    ]
    whole = json.loads(paths[2].read_text())
    assert whole["paired"] is True and whole["failures"] == {"c": "c.nii.gz: damaged"}
    assert "data range 2" in whole["protocols"]["own"]
    assert len(whole["subjects"]) == 12 and len(whole["summary"]) == 6


def test_json_has_neither_nan_nor_infinity(tmp_path):
    Scores(True, [subject("a", "model", math.inf, math.nan)]).save(tmp_path)
    text = (tmp_path / "scores.json").read_text()
    values = {row["metric"]: row["value"] for row in json.loads(text)["subjects"] if row["region"] == "foreground"}
    assert values == {"psnr": "inf", "ssim": None}
    assert "NaN" not in text and "Infinity" not in text


def test_the_text_shows_the_masked_volume_with_deviation_count_notes_and_who_was_left_out(scores):
    text = scores.text()
    (model,) = [line for line in text.splitlines() if "model" in line]
    assert "T1 → T2" in model and "22.00±2.83" in model and model.endswith("2")
    assert "28.00" not in text  # the whole image's figure is in the files
    assert "PSNR [dB]" in text and "± is the sample SD over subjects" in text
    assert "note: no lookup" in text and "left out: c: c.nii.gz: damaged" in text


def test_a_figure_without_a_value_is_a_dash_and_a_single_subject_has_no_deviation():
    text = Scores(True, [subject("a", "model", 20, math.nan)]).text()
    (model,) = [line for line in text.splitlines() if "model" in line]
    assert "—" in model and "±" not in model


def test_the_table_of_our_own_protocol_holds_seven_figures_and_fits_a_terminal():
    values = {"mae": 0.1234, "nrmse": 0.1234, "psnr": 21.234, "ssim": 0.9876, "nmi": 1.2345, "slice_ratio": 1.114}
    measured = {
        f"volume/{region}/{name}": value for region in ("image", "foreground") for name, value in values.items()
    }
    measured |= {"volume/interior/dice": 0.8765, "volume/interior/dice_dark": 0.4321}
    rows = [
        SubjectScore(
            str(number), "T1", "T2", system, "own", {k: np.array([v * (1 + number / 99)]) for k, v in values.items()}
        )
        for number in range(4)
        for system, values in (("model", measured), ("histogram matching", measured))
    ]
    _, header, *body, description = Scores(True, rows).text().splitlines()
    headings = ["direction", "system", "MAE", "NRMSE", "PSNR [dB]", "SSIM", "NMI", "slices", "Dice", "n"]
    assert [cell.strip() for cell in header.split("  ") if cell] == headings
    assert max(map(len, [header, *body])) <= 120
    assert "0.890±0.011" in body[1] and "1.13±0.01" in body[1] and body[1].endswith(" 4")  # mean Dice, slice ratio
    assert "Dice of dark, middle and bright tissue" in description and "1 as much as the real target's" in description


def test_a_published_protocol_is_named_and_its_figures_are_in_the_files(tmp_path):
    scores = Scores(True, [subject("a", "model", 20), subject("a", "model", 30, protocol="selfrdb", unit="slice")])
    text = scores.text()
    assert text.splitlines()[-1] == "The protocols of selfrdb have their tables in report.html and scores.csv."
    assert "20.00" in text and "36.00" not in text
    scores.save(tmp_path)
    assert "selfrdb,slice,image,psnr,36.0" in (tmp_path / "scores.csv").read_text()


def test_the_table_without_pairs_says_so():
    measured = {"volume/foreground/intensity_distance": np.array([0.25])}
    scores = Scores(False, [SubjectScore("a", "T1", "T2", "copy", UNPAIRED, measured)])
    text = scores.text()
    assert "without pairs" in text and "no pairs, so nothing here says whether a translation is right" in text
    assert "0.250" in text and "intensity distance" in text
