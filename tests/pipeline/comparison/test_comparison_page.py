import csv
import json
import re

import numpy as np
import pytest
from finished_runs import finished_run, read_runs

from pipeline.comparison.comparison import metrics, save
from pipeline.comparison.comparison_page import p_text, parameters_text, render, result_sentence, terminal_text
from pipeline.comparison.table import compare
from pipeline.evaluation.report import evaluated_steps
from pipeline.reporting.report_page import Picture
from pipeline.reporting.tiles import png_bytes
from pipeline.training.schedule import TrainerState

EVIL = "<script>alert(1)<script>"


def comparison(folder, **of_b):
    gains = tuple(0.1 * (index + 1) for index in range(7))
    return compare(read_runs([finished_run(folder, "a"), finished_run(folder, "b", **{"gains": gains, **of_b})]))


@pytest.fixture
def two(tmp_path):
    return comparison(tmp_path)


def test_the_page_has_figures_differences_costs_and_baselines(two):
    page = render(two, None)
    for output in ("16.00 ± 2.16", "16.40 ± 2.38", "histogram matching", "baseline, fitted on pairs", "0.250", "2.0 M"):
        assert output in page
    assert "#pictures" not in page  # there are none
    for output in ("of 2.5 M", "-0.40", "T1 → T2, less b", "p 0.062", "python -m pipeline.compare"):
        assert output in page
    assert not re.search(r"\bnan\b", page)
    assert result_sentence(two) == (
        "Best masked PSNR of whole test volumes (our protocol, data range 2): "
        "T1 → T2 b (16.40 dB); T2 → T1 b (18.40 dB)."
    )


def test_the_page_is_whole_in_itself_and_asks_nothing_of_the_network(two):
    page = render(two, Picture(png_bytes(np.zeros((4, 4, 3), np.uint8)), "slices", "a caption"))
    assert "data:image/" in page and "a caption" in page
    assert "default-src 'none'" in page and "<script" not in page and 'src="http' not in page


def test_a_runs_name_cannot_become_a_part_of_the_page(tmp_path):
    page = render(comparison(tmp_path, settings={"name": EVIL}), None)
    assert "<script" not in page and "&lt;script&gt;" in page


def test_only_what_remains_after_correction_is_called_better_or_worse(tmp_path, two):
    assert 'title="worse"' not in render(two, None)  # 4 × 2/2⁷ is 0.062
    split = {"train": {"T1": ["t1"], "T2": ["t2"]}, "validation": ["v"], "test": [f"s{i}" for i in range(9)]}
    gains = {"a": (0.0,) * 9, "b": tuple(1 + index / 10 for index in range(9))}
    folders = [finished_run(tmp_path / "more", name, split=split, gains=gain) for name, gain in gains.items()]
    page = render(compare(read_runs(folders)), None)
    # of the two directions, run a, copy and histogram matching are worse in 3 metrics, the lookup is better
    assert page.count('title="worse"') == 18 and page.count('title="better"') == 6


REGIONS = {
    "volume/foreground/calibrated_psnr": 17.25,
    **{f"volume/tissue/{label}/{metric}": value for label in ("10", "2", "outside") for metric, value in [
        ("psnr", 21.5), ("mae", 0.125)]},
}  # fmt: skip


def test_regions_have_a_table_of_their_own_without_tests_and_calibrated_psnr_stands_beside_psnr(tmp_path):
    folders = [finished_run(tmp_path, name, extra=REGIONS) for name in ("a", "b")]
    compared = compare(read_runs(folders))
    first = compared.directions[0]
    assert not any("tissue" in column for column in first.columns)
    assert first.region_columns[0] == "tissue/10/psnr" and len(first.region_columns) == 6
    page = render(compared, None)
    table = page[page.index('id="regions"') :]
    assert table.index("tissue/2") < table.index("tissue/10") < table.index("tissue/outside")
    assert "21.50 ± 0.00" in table and "0.125 ± 0.000" in table
    save(compared, tmp_path / "c.csv", tmp_path / "c.json")
    rows = [row for row in csv.DictReader((tmp_path / "c.csv").open()) if row["region"] == "tissue/2"]
    assert {row["metric"] for row in rows} == {"psnr", "mae"} and {row["difference"] for row in rows} == {""}
    assert not any("tissue" in name for name in metrics(compared))
    assert first.columns[:2] == ["foreground/psnr", "foreground/calibrated_psnr"]
    assert "calibrated PSNR [dB] ↑" in page and "calibrated" not in terminal_text(compared)


def test_a_run_without_regions_or_calibrated_psnr_can_be_compared_with_one_that_has_them(tmp_path):
    folders = [finished_run(tmp_path, "old"), finished_run(tmp_path, "new", extra=REGIONS)]
    page = render(compare(read_runs(folders)), None)
    assert "tissue/2" not in page and "#regions" not in page


def test_csv_and_json_hold_every_figure_in_full(two, tmp_path):
    save(two, tmp_path / "c.csv", tmp_path / "c.json")
    rows = list(csv.DictReader((tmp_path / "c.csv").open(encoding="utf-8")))
    assert len(rows) == 2 * 5 * 3  # directions, methods, metrics
    (row,) = (r for r in rows if (r["target"], r["label"], r["metric"]) == ("T2", "a", "psnr"))
    assert float(row["mean"]) == 16.0 and row["n"] == "7" and row["reference"] == "b"
    assert float(row["difference"]) == pytest.approx(-0.4) and float(row["p_holm"]) == pytest.approx(0.0625)
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["reference"] == {"T1_to_T2": "b", "T2_to_T1": "b"}
    assert len(content["figures"]) == 30 and content["runs"][0]["seconds_per_step"] == 0.25


def test_numbers_that_json_does_not_have_are_written_as_elsewhere(tmp_path):
    of_b = {"extra": {"volume/foreground/nmi": float("inf")}}
    actual = compare(read_runs([finished_run(tmp_path, name, **of_b) for name in ("a", "b")]))
    save(actual, tmp_path / "c.csv", tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    assert "Infinity" not in text and "NaN" not in text and '"inf"' in text


def test_the_terminal_has_a_table_a_direction_and_the_notes(two):
    text = terminal_text(two)
    assert text.count("PSNR [dB] ↑") == 2
    assert "-0.40 [-0.54, -0.26]" in text and "note: 7 test subjects" in text
    assert "data range 2" in text


def test_terminal_and_page_say_which_run_was_evaluated_as_training_began(tmp_path):
    folders = [finished_run(tmp_path, name) for name in ("a", "b")]
    position = TrainerState(step=900, best_steps={"T2": 0, "T1": 900})
    _, notes = evaluated_steps("best", position, ("T1", "T2"), held_out=True)
    scores = json.loads((folders[1] / "scores.json").read_text())
    (folders[1] / "scores.json").write_text(json.dumps(scores | {"notes": [*notes, "another"]}))
    comparison = compare(read_runs(folders))
    [note] = [note for note in comparison.notes if "began with" in note]
    assert note.startswith("b, T1 → T2: ") and note.endswith("these figures are not of the training.")
    assert f"note: {note}" in terminal_text(comparison) and note in render(comparison, None)
    assert not any("another" in note for note in comparison.notes)


@pytest.mark.parametrize(("p", "text"), [(None, "—"), (0.0004, "< 0.001"), (0.0625, "0.062"), (1.0, "1.000")])
def test_p_reads_as_readers_expect(p, text):
    assert p_text(p) == text


@pytest.mark.parametrize(("count", "text"), [(None, "—"), (1225, "1.2 k"), (54_408_833, "54.4 M")])
def test_parameters_read_as_readers_expect(count, text):
    assert parameters_text(count) == text


def test_metrics_bear_the_names_of_the_runs_own(two):
    actual = metrics(two)
    name = "test/T1_to_T2/{}/own/volume_foreground_psnr"
    assert actual[name.format("model")] == actual[name.format("b")] == pytest.approx(16.4)
    assert actual[name.format("a")] == pytest.approx(16.0)
    assert actual[name.format("histogram_matching")] == pytest.approx(14.03)
    assert len(actual) == 2 * 3 * 6
