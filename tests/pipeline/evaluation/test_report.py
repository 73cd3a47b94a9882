from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from pipeline.data.case import Case
from pipeline.data.splits import CohortSplit
from pipeline.data.statistics import ContrastStatistics
from pipeline.evaluation import report
from pipeline.evaluation.scores import UNPAIRED, Scores, SubjectScore
from pipeline.evaluation.translation_writer import TranslatedVolume
from pipeline.reporting.tiles import save_png
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData
from pipeline.training.callbacks import save_sample
from pipeline.training.failure_checks import CheckResult
from pipeline.training.failure_monitor import TrainingWarning
from pipeline.training.schedule import TrainerState

CONTRASTS = ("T1", "T2")
EVIL = "<script>alert(1)</script>"
PSNR = {  # of two subjects, by direction and system; means: 13, 9, 10 and 12, 11, 8
    ("T1", "T2"): {"model": (12, 14), "copy": (8, 10), "histogram matching": (9, 11)},
    ("T2", "T1"): {"model": (11, 13), "copy": (10, 12), "histogram matching": (7, 9)},
}


def scores(subjects=("a", "b"), ssim=0.5):
    subject_scores = []
    for (source, target), systems in PSNR.items():
        for system, values in systems.items():
            for subject, value in zip(subjects, values, strict=True):
                measured = {
                    "volume/foreground/psnr": np.array([float(value)]),
                    "volume/foreground/ssim": np.array([ssim + 0.1 * (system == "model")]),
                }
                subject_scores.append(SubjectScore(subject, source, target, system, "own", measured))
    return Scores(paired=True, subjects=subject_scores, failures={"c": "c_T1.nii.gz: damaged"}, notes=["a note"])


def unpaired():
    measured = {"volume/foreground/intensity_distance": np.array([0.25])}
    subjects = [SubjectScore("a_T1", "T1", "T2", system, UNPAIRED, measured) for system in ("model", "copy")]
    return Scores(paired=False, subjects=subjects, notes=["no pairs"])


def page(tmp_path, run_scores, subject="a", session="", source="nifti", warnings=(), **options):
    """The report of a run whose test subjects are `subject` and "b"."""
    folder = RunFolder(tmp_path)
    gray = np.full((30, 40, 3), 90, np.uint8)
    for direction in ("T1_to_T2", "T2_to_T1"):
        for epoch in (0, 3):
            save_sample(folder.samples, direction, epoch, gray)
    save_png(gray, folder.curves)
    save_png(gray, folder.mosaics / "one.png")
    cases = {name: Case(name, session, "T1", Path(f"{name}.nii.gz")) for name in (subject, "b", "left out")}
    train = {contrast: (Case(f"train {contrast}", "", contrast, Path("x")),) for contrast in CONTRASTS}
    prepared = PreparedData(
        cases=tuple(cases.values()),
        split=CohortSplit(train, (), (cases[subject], cases["b"])),
        stored={},
        statistics={contrast: ContrastStatistics(slices=321) for contrast in CONTRASTS},
        left_out={cases["left out"]: "cut short"},
    )
    volumes = [TranslatedVolume(cases[subject], "T2", Path("x.nii.gz"), folder.mosaics / "one.png")]
    gifs = dict.fromkeys(("T1_to_T2", "T2_to_T1"), folder.curves)
    position = TrainerState(step=1000, epochs=3, bad_steps=2, seconds=60.0)
    costs = report.provenance(0, position, {"G": nn.Linear(9, 10)})
    run = report.RunDescription("mine", CONTRASTS, source, "name: mine", costs)
    report.write_run_report(folder, run, prepared, run_scores, volumes, gifs, training_warnings=warnings, **options)
    return folder.report.read_text()


# ── the result in a sentence ────────────────────────────────────────────────────────────────────────────────


def test_the_result_is_set_against_the_better_baseline_of_each_direction():
    assert report.result_sentence(scores(), CONTRASTS) == (
        "Masked PSNR of whole test volumes (our protocol, data range 2): "
        "T1 → T2 13.00 dB, +3.00 dB against histogram matching; T2 → T1 12.00 dB, +1.00 dB against copy."
    )


def test_the_result_is_set_against_what_training_began_with_where_that_is_better():
    begun = scores()
    for subject in ("a", "b"):
        start = {"volume/foreground/psnr": np.array([12.5])}
        begun.subjects.append(SubjectScore(subject, "T1", "T2", "untrained start", "own", start))
    assert "T1 → T2 13.00 dB, +0.50 dB against untrained start;" in report.result_sentence(begun, CONTRASTS)


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_has_the_figures_the_split_the_costs_and_what_was_left_out(tmp_path):
    shift = "At the last validation translations lay beside their sources: T1 → T2 by 0.40 mm."
    text = page(tmp_path, scores(), shift=shift)
    assert f"<figcaption>{shift}</figcaption>" in text.split('id="curves"')[1].split("</figure>")[0]
    assert "left out.nii.gz: cut short; not trained on" in text
    assert "c: c_T1.nii.gz: damaged; not evaluated" in text
    assert "easier than real data" not in text
    assert "easier than real data" in page(tmp_path / "phantom", scores(), source="phantom")
    for phrase in ("13.0 dB", "+3.0 dB over histogram matching", "0.60", "+0.10 over the best baseline", "321"):
        assert phrase in text
    for phrase in ("1,000 (2 skipped)", "1.0 min (60 ms a step)", "G 100", "a note", "train T1", "after 3 epochs"):
        assert phrase in text


def test_the_tissues_have_a_table_of_their_own_and_slices_are_best_at_one(tmp_path):
    run_scores = scores()
    for score in run_scores.subjects:
        score.measurements["volume/foreground/slice_ratio"] = np.array([1.5])
        score.measurements["volume/interior/dice_middle"] = np.array([0.75])
    text = page(tmp_path, run_scores)
    assert "T1 → T2 · per volume, inside the head" in text and "<th>slice ratio → 1</th>" in text
    tissues = text.split("T1 → T2 · per volume, tissues deep inside the head")[1].split("</table>")[0]
    assert text.count("slices without foreground left out") == 1  # a protocol is explained once
    assert "<th>Dice, middle ↑</th>" in tissues and tissues.count("0.750") == 3 and "PSNR" not in tissues


def test_a_subjects_name_cannot_become_a_part_of_the_page(tmp_path):
    text = page(tmp_path, scores((EVIL, "b")), subject=EVIL, warnings=[warning(0.1, None, EVIL)])
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_worst_subject_is_shown_with_its_picture_also_where_there_are_sessions(tmp_path):
    pages = [
        page(tmp_path / name, scores(subjects), session=session)
        for name, subjects, session in (
            ("plain", ("a", "b"), ""),
            ("sessions", ("a_1", "b_1"), "1"),
            ("others", ("x", "y"), ""),  # subjects without a picture
        )
    ]
    sections = [text.partition('id="subjects"')[2].partition("</section>")[0] for text in pages]
    assert [section.count("<img") for section in sections] == [1, 1, 0]
    assert len({text.count("<img") for text in pages}) == 1  # what is shown there is not shown again among the volumes


def test_without_the_viewers_package_the_page_says_where_it_comes_from(tmp_path, monkeypatch):
    for fetched in (True, False):
        monkeypatch.setattr(report, "is_fetched", lambda fetched=fetched: fetched)
        assert ("`make viewer` fetches it" in page(tmp_path / str(fetched), scores())) is not fetched


def test_an_ssim_that_could_not_be_measured_is_not_claimed(tmp_path):
    text = page(tmp_path, scores(ssim=float("nan")))
    assert ">nan<" not in text and "masked SSIM" not in text
    assert "13.0 dB" in text


def test_a_page_without_pairs_has_its_table_and_no_claims(tmp_path):
    text = page(tmp_path, unpaired())
    assert "No test subject has both contrasts: these figures cannot say whether a translation is right." in text
    assert "0.25" in text and "masked PSNR" not in text


def warning(last, cleared, direction="T1_to_T2"):
    first, last = (CheckResult("mode_collapse", direction, value, 0.25, value < 0.25) for value in (0.125, last))
    return TrainingWarning(first, 3, last, cleared)


def test_a_warning_of_training_stands_in_its_section_and_while_it_holds_at_the_top(tmp_path):
    text = page(tmp_path / "stands", scores(), warnings=[warning(0.1, None)])
    assert "<td>0.12 after epoch 3, below 0.25</td><td>is much the same picture whatever the source</td>" in text
    assert "<td>begin again in a new output, from an earlier checkpoint" in text
    assert "Warnings stood when training ended, see there what to do: mode collapse, T1 → T2." in text
    text = page(tmp_path / "cleared", scores(), warnings=[warning(0.5, 7)])
    assert "<td>0.12 after epoch 3, below 0.25; 0.50, cleared after epoch 7</td>" in text
    assert "Warnings stood" not in text
    assert "Warnings during training" not in page(tmp_path / "none", scores())


# ── which step was evaluated ────────────────────────────────────────────────────────────────────────────────


def test_the_steps_that_were_evaluated_are_named_and_what_training_began_with_is_noted():
    position = TrainerState(step=2000, best_steps={"T2": 1200, "T1": 0})
    evaluated, notes = report.evaluated_steps("best", position, CONTRASTS, held_out=True)
    assert evaluated == {"evaluated": "T1 → T2 of step 1,200, T2 → T1 of step 0"}
    assert notes == ["T2 → T1: validation chose what training began with, so these figures are not of the training"]
    earlier_release = TrainerState(step=2000)
    for checkpoint, state in (("latest", position), ("best", earlier_release)):
        assert report.evaluated_steps(checkpoint, state, CONTRASTS, held_out=True) == ({}, [])


def test_without_validation_subjects_the_note_says_what_chose():
    position = TrainerState(step=2000, best_steps={"T2": 0, "T1": 2000})
    _, [note] = report.evaluated_steps("best", position, CONTRASTS, held_out=False)
    assert note.startswith("T1 → T2: scores without pairs, on training subjects, chose what training began with, so")


# ── the last lines ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("file", "kind"), [("a.nii.gz", "(NIfTI, on each source's grid"), ("a.png", "(PNG)")])
def test_the_last_lines_say_what_the_translations_are(tmp_path, file, kind):
    folder = RunFolder(tmp_path)
    folder.translated.mkdir()
    (folder.translated / file).write_bytes(b"")
    (tmp_path / "training_T1_to_T2.gif").write_bytes(b"")
    last_lines = partial(report.closing_lines, mlflow_command="mlflow ui", work="trained")
    assert "translated" not in last_lines(RunFolder(tmp_path / "without"), translated=True)
    assert "translated" not in last_lines(folder, translated=False)  # those of an earlier evaluation
    lines = last_lines(folder, translated=True).splitlines()
    assert lines[0] == "trained"
    assert f"{tmp_path}/report.html" in lines[1] and f"{tmp_path}/training_T1_to_T2.gif" in lines[2]
    assert kind in lines[3]
    assert lines[4].split(maxsplit=1) == ["MLflow", "mlflow ui"]


def test_what_was_done_tells_training_from_evaluating_again():
    position = TrainerState(step=5000, bad_steps=2)
    assert report.work_summary(position, 0, 90) == "trained 5,000 steps, 2 of them skipped and evaluated in 1.5 min"
    continued = report.work_summary(TrainerState(step=5000), 4000, 90)
    assert continued == "trained 1,000 of 5,000 steps and evaluated in 1.5 min"
    assert report.work_summary(position, 5000, 18) == (
        "nothing was left to train after step 5,000; evaluated and reported in 0.3 min"
    )
