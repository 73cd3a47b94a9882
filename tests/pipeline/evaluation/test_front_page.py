from dataclasses import replace

import numpy as np
from negative_model import negative_model

from pipeline.data.statistics import ContrastStatistics
from pipeline.evaluation.front_page import front_page, subject_table
from pipeline.evaluation.scores import UNPAIRED, Scores, SubjectScore

PSNR = {"model": (12.0, 14.0), "copy": (8.0, float("nan"))}


def scores():
    """Of two subjects, one way, with figures elsewhere that are no headlines."""
    subjects = []
    for system, values in PSNR.items():
        for subject, value in zip("ab", values, strict=True):
            figures = {"foreground/psnr": value, "image/psnr": 77.0, "lesion/1/psnr": 78.0}
            measured = {f"volume/{figure}": np.array([number]) for figure, number in figures.items()}
            subjects.append(SubjectScore(subject, "T1", "T2", system, "own", measured))
    published = {"slice/foreground/psnr": np.array([79.0])}
    subjects.append(SubjectScore("a", "T1", "T2", "model", "syndiff", published))
    return Scores(paired=True, subjects=subjects, notes=["the lookup was fitted on pairs"])


def model():
    statistics = {name: ContrastStatistics(0.0, 1.0, cases=5, slices=1200) for name in ("T1", "T2")}
    return replace(negative_model(), statistics=statistics, origin="cyclegan mine")


def test_a_front_page_says_what_was_trained_on_what_how_well_beside_what_and_with_which_reservations():
    run_scores = scores()
    run_scores.subjects = [score for score in run_scores.subjects if score.protocol == "own"]
    pictures = {"a_T1_to_T2": "mosaics/a b_T1_to_T2.png"}
    page = front_page(model(), run_scores, "best", {"seed": "0", "steps": "3,800"}, ["Warnings stood: gain"], pictures)
    for text in (
        'cyclegan mine, checkpoint "best". **Not for clinical use.**',
        "T1 → T2 13.00 dB, +5.00 dB against copy",
        "- **Warnings stood: gain**",
        "![a_T1_to_T2](get-artifact?path=mosaics%2Fa%20b_T1_to_T2.png&run_uuid={run_id})",
        "| T1 → T2, n = 2 | PSNR [dB] |\n| --- | --- |\n| model | 13.00 ± 1.41 |\n| copy | 8.00 |\n",
        "data range 2",
        "trained on: 5 scans in T1 (1,200 slices), 5 scans in T2 (1,200 slices)",
        "- steps: 3,800",
        "Note: the lookup was fitted on pairs.",
    ):
        assert text in page, page
    assert not any(number in page for number in ("77", "78", "79"))
    assert page.startswith("Masked PSNR")
    assert page.index("Warnings stood") < page.index("| model |")


def test_without_pairs_it_says_so_and_shows_what_there_is():
    measured = {"volume/foreground/intensity_distance": np.array([0.25]), "volume/image/cycle_error": np.array([0.1])}
    unpaired = Scores(paired=False, subjects=[SubjectScore("a_T1", "T1", "T2", "model", UNPAIRED, measured)])
    page = front_page(model(), unpaired, "latest", {}, [], {})
    assert "cannot say whether a translation is right" in page and "| model | 0.25" in page
    assert subject_table(unpaired) == (
        ["row", "intensity distance", "subject", "source", "target", "system"],
        [["a_T1 T1 → T2, model", 0.25, "a_T1", "T1", "T2", "model"]],
    )


def test_the_table_of_subjects_has_a_row_for_each_and_every_system():
    columns, rows = subject_table(scores())
    assert columns == ["row", "PSNR [dB]", "subject", "source", "target", "system"]
    assert rows == [
        ["a T1 → T2, model", 12.0, "a", "T1", "T2", "model"],
        ["b T1 → T2, model", 14.0, "b", "T1", "T2", "model"],
        ["a T1 → T2, copy", 8.0, "a", "T1", "T2", "copy"],
        ["b T1 → T2, copy", None, "b", "T1", "T2", "copy"],
    ]
