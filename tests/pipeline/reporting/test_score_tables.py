from pipeline.reporting.score_tables import ScoreTable, best_baseline, format_table

NAN = float("nan")


def table(**rows):
    return ScoreTable("T1 → T2", "own", "", rows, model="model")


def cells(laid, method):
    return next([(cell.text, cell.verdict) for cell in row.cells] for row in laid.rows if row.method == method)


def test_higher_is_better_for_psnr_and_ssim_and_lower_for_errors():
    baseline = {"psnr": (10.0, 1.0, 4), "ssim": (0.3, 0.01, 4), "mae": (0.2, 0.01, 4), "cycle error": (0.1, 0.0, 4)}
    model = {"psnr": (12.345, 1.0, 4), "ssim": (0.2, 0.01, 4), "mae": (0.1, 0.01, 4), "cycle error": (0.2, 0.0, 4)}
    laid = format_table(table(copy=baseline, model=model))
    assert laid.columns == [("PSNR [dB]", "↑"), ("SSIM", "↑"), ("MAE", "↓"), ("cycle error", "↓")]
    assert cells(laid, "model") == [
        ("12.35 ± 1.00", "better"),
        ("0.200 ± 0.010", "worse"),
        ("0.100 ± 0.010", "better"),
        ("0.200 ± 0.000", "worse"),
    ]
    assert [verdict for _, verdict in cells(laid, "copy")] == ["", "", "", ""]


def test_the_model_is_compared_with_the_best_of_the_baselines():
    scores = table(copy={"psnr": (9.0, 1.0, 4)}, match={"psnr": (11.0, 1.0, 4)}, model={"psnr": (10.0, 1.0, 4)})
    assert best_baseline(scores, "psnr") == ("match", 11.0)
    assert cells(format_table(scores), "model") == [("10.00 ± 1.00", "worse")]


def test_what_was_given_pairs_is_no_rival():
    rows = {"copy": {"psnr": (9.0, 1.0, 4)}, "lookup": {"psnr": (17.0, 1.0, 4)}, "model": {"psnr": (10.0, 1.0, 4)}}
    scores = ScoreTable("T1 → T2", "own", "", rows, model="model", trained_on_pairs=("lookup",))
    assert best_baseline(scores, "psnr") == ("copy", 9.0)
    assert cells(format_table(scores), "model") == [("10.00 ± 1.00", "better")]


def test_structure_is_better_when_higher_and_slices_best_at_one():
    names = {"nmi": "NMI", "dice": "mean Dice", "dice_dark": "Dice, dark", "slice_ratio": "slice ratio"}
    laid = format_table(table(copy=dict.fromkeys(names, (0.5, NAN, 4)), model=dict.fromkeys(names, (0.7, NAN, 4))))
    assert laid.columns == [(name, "→ 1" if name == "slice ratio" else "↑") for name in names.values()]
    assert [verdict for _, verdict in cells(laid, "model")] == ["better"] * 4


def test_a_slice_ratio_is_compared_by_its_distance_from_one():
    baselines = {"copy": {"slice_ratio": (1.25, 0.1, 4)}, "match": {"slice_ratio": (0.5, 0.1, 4)}}
    for ours, verdict in ((1.125, "better"), (0.875, "better"), (0.75, ""), (0.6, "worse"), (1.4, "worse")):
        scores = table(**baselines, model={"slice_ratio": (ours, 0.1, 4)})
        assert best_baseline(scores, "slice_ratio") == ("copy", 1.25)
        assert cells(format_table(scores), "model") == [(f"{ours:.2f} ± 0.10", verdict)]


def test_missing_figures_are_dashes_and_a_single_subject_has_no_deviation():
    laid = format_table(table(copy={"psnr": (NAN, NAN, 0)}, model={"ssim": (0.5, NAN, 1)}))
    assert cells(laid, "copy") == [("—", ""), ("—", "")]
    assert cells(laid, "model") == [("—", ""), ("0.500", "")]


def test_equal_figures_and_missing_baselines_have_no_verdict():
    assert cells(format_table(table(copy={"psnr": (9.0, 1, 4)}, model={"psnr": (9.0, 1, 4)})), "model")[0][1] == ""
    assert cells(format_table(table(model={"psnr": (9.0, 1, 4)})), "model")[0][1] == ""


def test_the_number_of_subjects_is_a_range_where_it_differs():
    assert format_table(table(copy={"psnr": (9.0, 1, 4)}, model={"psnr": (9.0, 1, 5)})).count == "n = 4 to 5"
    assert format_table(table(copy={"psnr": (9.0, 1, 4)})).count == "n = 4"
    assert format_table(table(copy={})).count == ""
