import math

import pytest
from finished_runs import BASELINES, RECORD, SPLIT, SUBJECTS, bound, finished_run, read_runs

from pipeline.comparison.comparison_page import terminal_text
from pipeline.comparison.table import compare

GAINS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # of one run over another, 0.4 in the mean


def compared(*folders):
    return compare(read_runs(folders))


@pytest.fixture
def two(tmp_path):
    return compared(finished_run(tmp_path, "a", 13.0), finished_run(tmp_path, "b", 13.0, gains=GAINS))


def rows(direction):
    return {row.label: row for row in direction.rows}


def test_there_is_a_table_for_each_direction_with_runs_before_baselines(two):
    assert [direction.contrasts for direction in two.directions] == [("T1", "T2"), ("T2", "T1")]
    for direction in two.directions:
        assert [row.label for row in direction.rows] == ["a", "b", "copy", "histogram matching", "lookup"]
        assert [row.kind for row in direction.rows] == ["run", "run", "baseline", "baseline", "baseline"]
        assert direction.columns == ["foreground/psnr", "foreground/ssim", "foreground/mae"]


def test_figures_are_mean_and_sample_sd_over_subjects(two):
    value = rows(two.directions[1])["a"].values["foreground/psnr"]  # of 15, 16, … 21
    assert (value.mean, value.sd, value.n) == (pytest.approx(18.0), pytest.approx(math.sqrt(28 / 6)), 7)


def test_all_is_compared_with_the_best_run_by_psnr(two):
    direction = two.directions[0]
    assert direction.best.label == "b"
    table = rows(direction)
    assert table["b"].differences == {}
    difference = table["a"].differences["foreground/psnr"]
    assert difference.mean == pytest.approx(-0.4)
    assert -0.7 < difference.low < -0.4 < difference.high < -0.1
    assert difference.p == pytest.approx(2 / 2**7)
    assert table["lookup"].differences["foreground/psnr"].mean == pytest.approx(16.03 - 13.4)  # better, and no run


def test_p_is_corrected_for_everything_else_in_its_column(two):
    differences = [row.differences["foreground/psnr"] for row in two.directions[0].rows if row.differences]
    assert [difference.p_holm for difference in differences] == pytest.approx([4 * 2 / 2**7] * 4)  # all equal


def test_the_best_of_a_column_is_sought_among_those_that_no_pairs_taught(tmp_path):
    folders = finished_run(tmp_path, "a", 10.0), finished_run(tmp_path, "b", 10.5)
    leaders = compared(*folders).directions[0].leaders
    assert leaders == dict.fromkeys(leaders, "histogram matching")  # 11 dB; the lookup's 16 took pairs
    assert set(leaders) == {"foreground/psnr", "foreground/ssim", "foreground/mae"}


def test_what_a_run_began_with_stands_beside_the_baselines(tmp_path):
    started = finished_run(tmp_path, "a", 13.0, baselines={**BASELINES, "untrained start": 12.5})
    direction = compared(started, finished_run(tmp_path, "b", 12.0)).directions[0]
    assert direction.best.label == "a" and direction.rows[-1].label == "a, untrained start"
    assert direction.rows[-1].differences["foreground/psnr"].mean == pytest.approx(12.53 - 13)


def test_runs_that_began_alike_have_one_row_of_it(tmp_path):
    begun = {**BASELINES, "untrained start": 12.5}
    runs = [finished_run(tmp_path, name, psnr, baselines=begun) for name, psnr in (("a", 13.0), ("b", 14.0))]
    runs.append(finished_run(tmp_path, "c", 15.0, baselines={**BASELINES, "untrained start": 12.0}))
    labels = [row.label for row in compared(*runs).directions[0].rows]
    assert labels[-2:] == ["a, b, untrained start", "c, untrained start"]


def test_a_paired_bound_is_marked_and_takes_no_part_in_who_is_best(tmp_path):
    train = {"T1": ["t1", "t2"], "T2": ["t1", "t2"]}
    baselines = {"copy": 9.0, "histogram matching": 11.5, "lookup": 16.0}
    folders = [
        finished_run(tmp_path, "bound", 20.0, settings=bound(), split={**SPLIT, "train": train}, baselines=baselines),
        finished_run(tmp_path, "a", 13.0),
    ]
    comparison = compared(*folders)
    direction = comparison.directions[0]
    assert direction.best.label == "a" and direction.leaders["foreground/psnr"] == "a"
    table = rows(direction)
    assert (table["bound"].kind, table["bound"].used_pairs) == ("paired bound", True)
    assert table["bound"].differences["foreground/psnr"].mean == pytest.approx(7.0)
    assert table["histogram matching"].values["foreground/psnr"].mean == pytest.approx(14.03)  # of the unpaired cohort
    assert any(
        note.startswith(
            "Paired bound: bound trained on pairs of 2 subjects. The others never saw pairs (those of a: 2 subjects)"
        )
        for note in comparison.notes
    )


def test_a_run_that_saw_a_few_pairs_is_marked_and_takes_no_part_in_who_is_best(tmp_path):
    few = {**SPLIT, "pairs": ["t1"]}
    settings = {"split": {"pairs": 1}}
    folders = finished_run(tmp_path, "few", 20.0, split=few, settings=settings), finished_run(tmp_path, "a", 13.0)
    comparison = compared(*folders)
    direction = comparison.directions[0]
    assert direction.best.label == "a" and direction.leaders["foreground/psnr"] == "a"
    assert rows(direction)["few"].used_pairs and "cyclegan, with 1 pair " in terminal_text(comparison)


def test_a_column_that_no_run_has_a_number_for_is_left_out_and_counts_no_subjects(tmp_path):
    extra = {"volume/lesion/psnr": float("nan"), "volume/foreground/nmi": float("nan")}
    comparison = compared(*(finished_run(tmp_path, name, extra=extra) for name in ("a", "b")))
    assert "foreground/nmi" not in comparison.directions[0].columns
    assert "T1 → T2, 7 subjects\n" in terminal_text(comparison)


def test_among_bounds_alone_the_best_of_them_is_the_best(tmp_path):
    folders = [finished_run(tmp_path, name, psnr, settings=bound()) for name, psnr in (("a", 15.0), ("b", 17.0))]
    direction = compared(*folders).directions[0]
    assert direction.best.label == direction.leaders["foreground/psnr"] == "b"


def test_metrics_that_are_not_known_here_stand_last_and_those_that_one_run_lacks_are_left_out(tmp_path):
    more = {"volume/foreground/zeal": 1.0, "volume/interior/dice": 0.5, "volume/foreground/nmi": 1.2}
    folders = (
        finished_run(tmp_path, "a", extra=more | {"volume/foreground/own": 1.0}),
        finished_run(tmp_path, "b", extra=more),
    )
    assert compared(*folders).directions[0].columns == [
        "foreground/psnr", "foreground/ssim", "foreground/mae", "foreground/nmi", "interior/dice", "foreground/zeal",
    ]  # fmt: skip


def test_of_a_ratio_the_distance_from_one_is_compared(tmp_path):
    folders = [
        finished_run(tmp_path, name, psnr, extra={"volume/foreground/slice_ratio": ratio})
        for name, psnr, ratio in (("a", 14.0, 0.9), ("b", 13.0, 1.3))
    ]
    direction = compared(*folders).directions[0]
    assert direction.leaders["foreground/slice_ratio"] == "a"
    assert rows(direction)["b"].differences["foreground/slice_ratio"].mean == pytest.approx(0.2)


def test_sessions_of_one_subject_count_as_one(tmp_path):
    split = {**SPLIT, "test": ["s1/1", "s1/2", "s2"]}
    folders = [
        finished_run(tmp_path, name, 13.0, split=split, gains=gains)
        for name, gains in (("a", (0.0, 2.0, 0.0)), ("b", (1.0, 4.0, 3.0)))
    ]
    comparison = compared(*folders)
    table = {label: row.values["foreground/psnr"] for label, row in rows(comparison.directions[0]).items()}
    assert table["a"].mean == pytest.approx(((13 + 16) / 2 + 15) / 2)  # 13 and 14 + 2 are one subject's
    assert table["a"].sd == pytest.approx(0.5 / math.sqrt(2))
    difference = rows(comparison.directions[0])["a"].differences["foreground/psnr"]
    assert (table["a"].n, difference.n) == (2, 2)
    assert difference.mean == pytest.approx(table["a"].mean - table["b"].mean)
    assert any("takes each subject's mean" in note for note in comparison.notes)
    assert "T1 → T2, 2 subjects\n" in terminal_text(comparison)


def test_a_session_that_could_not_be_measured_leaves_its_subject_the_others(tmp_path):
    split = {**SPLIT, "test": ["s1/1", "s1/2", "s2"]}
    gains = (0.0, float("nan"), 0.0)
    folders = [finished_run(tmp_path, name, psnr, split=split, gains=gains) for name, psnr in (("a", 13), ("b", 14))]
    row = rows(compared(*folders).directions[0])["a"]
    assert (row.values["foreground/psnr"].mean, row.values["foreground/psnr"].n) == (14.0, 2)  # 13 and 15
    assert (row.differences["foreground/psnr"].mean, row.differences["foreground/psnr"].n) == (-1.0, 2)


def test_few_subjects_are_said_to_be_few(tmp_path):
    split = {**SPLIT, "test": list(SUBJECTS[:4])}
    comparison = compared(*(finished_run(tmp_path, name, split=split) for name in ("a", "b")))
    assert "fewer than 6 pairs cannot reach 0.05" in comparison.notes[0]
    assert rows(comparison.directions[0])["copy"].differences["foreground/psnr"].p is None


def test_a_correction_that_leaves_nothing_to_find_is_said(two):
    assert "corrected for 4 comparisons, the lowest of the p-values cannot fall below 0.062" in two.notes[0]


def test_a_run_that_was_warned_of_to_the_end_is_named(tmp_path):
    warned = RECORD | {"warnings": ["mode collapse, T1 → T2: 0.10 after epoch 3, below 0.2"]}
    comparison = compared(finished_run(tmp_path, "a"), finished_run(tmp_path, "b", record=warned))
    [note] = [note for note in comparison.notes if "warned of" in note]
    assert note.startswith("b was warned of in training") and "mode collapse, T1 → T2: 0.10" in note


def test_runs_on_different_machines_are_not_to_be_timed(tmp_path):
    gpu = RECORD | {"device": "NVIDIA H200", "precision": "bf16", "seconds_per_step": 0.01}
    comparison = compared(finished_run(tmp_path, "a"), finished_run(tmp_path, "b", record=gpu))
    assert any("NVIDIA H200, bf16): compare no seconds" in note for note in comparison.notes)


def test_settings_in_which_runs_differ_are_listed_and_names_and_places_are_not(tmp_path):
    folders = [
        finished_run(tmp_path, "a"),
        finished_run(tmp_path, "b", settings={"training": {"batch_size": 4}, "threads": 1, "data": {"folder": "x"}}),
    ]
    assert compared(*folders).settings == {"training.batch_size": ["1", "4"]}
