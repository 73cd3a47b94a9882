import json
from dataclasses import replace

import numpy as np
from negative_model import negative_model

from pipeline.evaluation.front_page import front_page
from pipeline.evaluation.score_tables import score_tables
from pipeline.evaluation.scores import Scores, SubjectScore
from pipeline.exporting.card import model_card
from pipeline.reporting.report_page import Report, render

FIGURES = ("foreground/psnr", "foreground/calibrated_psnr", "tissue/10/psnr", "tissue/2/psnr", "tissue/2/mae")


def scores():
    """One subject's figures of two systems in both directions: 0, 1, 2, … by the order of FIGURES."""
    measured = {f"volume/{figure}": np.array([float(value)]) for value, figure in enumerate(FIGURES)}
    return Scores(
        paired=True,
        subjects=[
            SubjectScore("s", *direction, system, "own", measured)
            for direction in (("T1", "T2"), ("T2", "T1"))
            for system in ("model", "copy")
        ],
    )


def test_regions_have_one_table_for_each_direction_in_counting_order_after_the_others():
    tables = score_tables(scores())
    assert [table.protocol for table in tables] == ["per volume, inside the head"] * 2 + ["by region"] * 2
    assert list(tables[2].rows) == ["tissue/2, model", "tissue/2, copy", "tissue/10, model", "tissue/10, copy"]
    assert tables[2].rows["tissue/2, model"].keys() == {"psnr", "mae"}
    assert tables[2].text("tissue/10, copy", "psnr") == "2.00" and tables[2].text("tissue/10, copy", "mae") == "—"
    assert tables[2].verdict("tissue/2, model", "psnr") == "" and tables[3].direction == "T2 → T1"


def test_the_first_table_says_what_calibrated_psnr_is():
    first, second, *_ = score_tables(scores())
    assert "calibrated PSNR: after the gain and offset" in first.description and second.description == ""
    assert first.columns["calibrated_psnr"] == "calibrated PSNR [dB] ↑"


def test_the_baseline_fitted_on_pairs_is_called_so_where_people_read_and_keeps_its_key_in_files(tmp_path):
    measured = {f"volume/{figure}": np.array([1.0]) for figure in FIGURES}
    systems = ("model", "copy", "histogram matching", "context lookup", "lookup")
    scores = Scores(True, [SubjectScore("s", "T1", "T2", system, "own", measured) for system in systems])
    scores.save(tmp_path)
    model = replace(negative_model(), folder=tmp_path)
    page = render(Report(title="t", result="r", scores=score_tables(scores)))
    assert ">lookup fitted on pairs</th>" in page and ">tissue/2, lookup fitted on pairs</th>" in page
    assert "| lookup fitted on pairs |" in front_page(model, scores, "best", {}, [], {})
    assert "| lookup fitted on pairs |" in model_card(model, "T2")
    assert "T1 → T2    lookup on pairs " in scores.text()
    assert {row["system"] for row in json.loads((tmp_path / "scores.json").read_text())["summary"]} == {*systems}
