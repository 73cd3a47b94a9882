import json

import numpy as np
import pytest
from small_run import QUICK, phantom_run

from pipeline.data.case import Case
from pipeline.data.loader import SliceBank
from pipeline.data.stored_slices import StoredSlices, encode
from pipeline.metrics.failure_detectors import LAYERS
from pipeline.training.discriminator_record import DiscriminatorRecord
from pipeline.training.failure_checks import check_failures
from pipeline.training.failure_monitor import FailureMonitor, cohort

GOOD, BAD = {"detectors/a_to_b/mode_collapse": 0.9}, {"detectors/a_to_b/mode_collapse": 0.1}
KEY = ("mode_collapse", "a_to_b")


def watch(tmp_path, tags=None, epochs=20, validate_every=1, **options):
    tag, discriminators = {}.update if tags is None else tags.append, DiscriminatorRecord(1.0, {})
    options = {"held_near_start": False, "discriminators": discriminators, **options}
    path = tmp_path / "metrics.jsonl"
    return FailureMonitor(path, tag=tag, epochs=epochs, validate_every=validate_every, **options)


# ── one check ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_verdict_names_the_direction_the_value_and_the_remedy():
    metrics = {"epoch": 3, "validation/a_to_b/psnr": 9.0, "detectors/a_to_b/mode_collapse": 0.1}
    (result,) = check_failures(metrics)
    assert (result.name, result.direction, result.value, result.threshold, result.triggered) == (
        "mode_collapse", "a_to_b", 0.1, 0.25, True,
    )  # fmt: skip
    assert "earlier checkpoint" in result.check.advice


@pytest.mark.parametrize(("shift", "trips"), [((0.4, -0.4), True), ((0.4, 0.2), False)])
def test_a_shift_is_none_below_half_a_pixel(shift, trips):
    metrics = {f"detectors/a_to_b/shift_{axis}_px": value for axis, value in zip("xy", shift, strict=True)}
    (result,) = check_failures(metrics | {"detectors/a_to_b/spatial_shift_mm": 9.0})
    assert (result.name, result.triggered, result.threshold) == ("spatial_shift", trips, 0.5)


# ── warning, clearing ───────────────────────────────────────────────────────────────────────────────────────


def test_a_warning_says_what_was_seen_what_it_means_and_what_to_do_once(tmp_path, capsys):
    monitor = watch(tmp_path)
    for epoch in (2, 3, 4):
        monitor(BAD, epoch)
    assert capsys.readouterr().err == (
        "warning: mode collapse, a → b: 0.10 after epoch 2, below 0.25: the translation is much the same picture "
        "whatever the source; begin again in a new output, from an earlier checkpoint (training.start_from) or anew, "
        "with a lower learning rate, the discriminators' above all, or a higher weight of the cycle\n"
    )


def test_the_advice_on_a_gain_that_the_start_has_is_to_hold_translations_less_near_it(tmp_path, capsys):
    def gains(first, second):
        return {"detectors/a_to_b/gain": first, "detectors/b_to_a/gain": second}

    for held in (True, False):
        monitor = watch(tmp_path, held_near_start=held)
        for epoch, metrics in enumerate((gains(0.64, 1.5), gains(0.64, 0.6), gains(0.65, 0.6))):
            monitor(metrics, epoch)
        advice = {key: warning.advice for key, warning in monitor.warnings.items()}
        assert ("a lower method.lookup_weight" in advice["gain", "a_to_b"]) is held
        assert "learning rate of the discriminators" in advice["gain", "b_to_a"]  # its start had too much
        lines = capsys.readouterr().err.splitlines()
        assert [line.count("gain, ") for line in lines] == ([1, 1] if held else [2])


def test_what_clears_is_said_to_once_and_coming_back_makes_no_more_noise(tmp_path, capsys):
    monitor = watch(tmp_path)
    for epoch, metrics in enumerate((BAD, GOOD, BAD, GOOD), start=2):
        monitor(metrics, epoch)
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert captured.out == "mode collapse, a → b: 0.10 after epoch 2, below 0.25; 0.90, cleared after epoch 3\n"


def test_both_directions_share_a_warning_and_what_clears_together_a_line(tmp_path, capsys):
    def both(*values):
        detectors = ("mode_collapse", "shift_x_px")
        names = [f"detectors/{direction}/{detector}" for direction in ("a_to_b", "b_to_a") for detector in detectors]
        still = {f"detectors/{direction}/shift_y_px": 0.0 for direction in ("a_to_b", "b_to_a")}
        return dict(zip(names, values, strict=True)) | still

    monitor = watch(tmp_path)
    monitor(both(0.1, 3.0, 0.2, 0.0), 2)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    text = "mode collapse, a → b: 0.10 after epoch 2, below 0.25; mode collapse, b → a: 0.20 after epoch 2, below 0.25"
    assert warnings[0].startswith(f"warning: {text}: the translation is much the same picture")
    assert warnings[1].startswith(
        "warning: spatial shift, a → b: 3.00 pixels (along a slice's two axes: +3.00, +0.00) after epoch 2"
    )
    monitor(both(0.9, 0.0, 0.9, 0.0), 3)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.count("cleared after epoch 3") == 3 and not line.startswith("warning")


def test_tags_follow_every_change(tmp_path):
    tags = []
    monitor = watch(tmp_path, tags)
    for epoch, metrics in enumerate((GOOD, BAD, BAD, GOOD, BAD), start=2):
        monitor(metrics, epoch)
    stands = "0.10 after epoch 3, below 0.25"
    assert [tag["warnings"] for tag in tags] == [
        f"mode collapse, a → b: {text}" for text in (stands, f"{stands}; 0.90, cleared after epoch 5", stands)
    ]


def test_a_detector_that_cannot_judge_changes_nothing(tmp_path):
    monitor = watch(tmp_path)
    monitor(BAD, 2)
    monitor({}, 3)
    assert monitor.warnings[KEY].cleared_epoch is None


# ── which validations count ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("epochs", "validate_every", "first"),
    [(100, 1, 10), (100, 20, 40), (1, 1, 1), (8, 5, 8)],  # the last one counts though it be the second
)
def test_early_validations_do_not_count_and_the_last_one_does(tmp_path, epochs, validate_every, first):
    monitor = watch(tmp_path, epochs=epochs, validate_every=validate_every)
    for epoch in range(1, first):
        monitor(BAD, epoch)
    assert monitor.warnings == {}
    monitor(BAD, first)
    assert monitor.warnings[KEY].epoch == first


# ── resuming and reporting ──────────────────────────────────────────────────────────────────────────────────


def record(tmp_path, *epochs):
    lines = [{"step": epoch * 10, "time": 1.0, "epoch": epoch, **metrics} for epoch, metrics in epochs]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_is_on_record_has_been_warned_of_and_is_told_when_it_clears(tmp_path, capsys):
    record(tmp_path, (1, BAD), (2, GOOD), (3, BAD))
    monitor = watch(tmp_path)
    assert capsys.readouterr().err == ""
    assert (monitor.warnings[KEY].epoch, monitor.warnings[KEY].cleared_epoch) == (3, None)
    monitor(BAD, 4)
    assert capsys.readouterr().err == ""
    monitor(GOOD, 5)
    assert "cleared after epoch 5" in capsys.readouterr().out


# ── shifts ──────────────────────────────────────────────────────────────────────────────────────────────────


def shifted(first, second=(0.0, 0.0)):
    """The metrics of shifts in pixels of 1 mm."""
    return {
        f"detectors/{direction}/{name}": value
        for direction, (x, y) in (("a_to_b", first), ("b_to_a", second))
        for name, value in (("spatial_shift_mm", (x * x + y * y) ** 0.5), ("shift_x_px", x), ("shift_y_px", y))
    }


def test_shifts_that_undo_each_other_warn_though_neither_is_half_a_pixel(tmp_path, capsys):
    monitor = watch(tmp_path)
    monitor(shifted((0.4, 0.1), (0.4, 0.1)), 2)  # both alike, as edges of another thickness would be
    monitor(shifted((0.2, 0.1), (-0.2, -0.1)), 3)
    assert monitor.warnings == {}
    monitor(shifted((0.4, 0.1), (-0.4, -0.1)), 4)
    (warning,) = monitor.warnings.values()
    assert (warning.title, warning.observation) == (
        "opposed shifts, a → b → a",
        "0.82 pixels (along a slice's two axes: a → b +0.40, +0.10; b → a -0.40, -0.10) after epoch 4, "
        "above 0.5 pixels",
    )  # fmt: skip
    assert "the translation is shifted one way and the way back the other, in sum" in capsys.readouterr().err
    monitor(shifted((0.1, 0.0), (0.0, 0.0)), 5)
    assert monitor.warnings["opposed_shifts", "a_to_b_to_a"].cleared_epoch == 5


def test_a_shift_that_grows_warns_before_it_is_half_a_pixel_and_a_resumed_run_knows_its_course(tmp_path):
    course = [(epoch, shifted((0.048 * epoch, 0.0))) for epoch in range(2, 8)]
    monitor, resumed = watch(tmp_path), None
    for epoch, metrics in course:
        monitor(metrics, epoch)
        if epoch == 5:
            record(tmp_path, *course[:4], (5, shifted((9.0, 9.0))), (5, course[3][1]))  # an epoch validated again
            resumed = watch(tmp_path)
        elif resumed:
            resumed(metrics, epoch)
    warning = monitor.warnings["growing_shift", "a_to_b"]
    assert warning.epoch == 7  # the fifth that counts came after epoch 6, and pointed to 0.29 + 0.19 pixels
    assert warning.observation == (
        "0.53 pixels (along a slice's two axes: now +0.34, +0.00) after epoch 7, above 0.5 pixels"
    )
    assert set(monitor.warnings) == {("growing_shift", "a_to_b")}
    assert resumed.warnings["growing_shift", "a_to_b"] == warning


def test_the_latest_shift_is_said_in_a_sentence(tmp_path):
    monitor = watch(tmp_path)
    monitor(BAD, 1)
    assert monitor.shift == ""
    monitor(shifted((0.3, -0.4), (0.0, 0.1)), 1)
    assert monitor.shift == (
        "At the last validation translations lay beside their sources: a → b by 0.50 pixels (+0.30 and -0.40 "
        "along a slice's two axes); b → a by 0.10 pixels (+0.00 and +0.10 along a slice's two axes)."
    )


# ── the cohort ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cohort_is_described_from_its_stored_slices(tmp_path):
    rows, columns = np.ogrid[:40, :40]
    depth = 1 - np.hypot(rows - 20, columns - 20) / 16  # 1 in the centre, 0 at the surface
    slices = np.stack([np.where(depth > 0, depth - 0.5 + shade, -1) for shade in (0, 0.1, 0.2, 0.3)])
    crowns = np.repeat(np.where(depth > 0.6, depth - 0.5, -1)[None], 4, axis=0)  # not a fair share of a head
    np.save(tmp_path / "a.npy", encode(np.concatenate([slices, crowns])))
    bank = SliceBank([StoredSlices(Case("s", "", "a", tmp_path / "a"), tmp_path / "a.npy", range(8))])
    statistics = cohort(bank, [0.0] * 128 + [1.0] + [0.0] * 127)
    assert (np.diff(statistics.profile) > 0).all() and len(statistics.profile) == LAYERS
    assert statistics.profile[-1] == pytest.approx(0.5 + 0.15 - 1 / 16, abs=0.05)  # the centre, of four shades
    assert statistics.spread == pytest.approx(np.std([0, 0.1, 0.2, 0.3], ddof=1), abs=1e-3)
    assert np.allclose(statistics.quantiles, 0, atol=0.01)


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────


SHORT = (
    "training.steps_per_epoch=1", "training.sample_slices=1", "evaluation.translate=false",
    "evaluation.uncertainty=false",
)  # fmt: skip


def test_a_run_whose_networks_copy_warns_tags_and_reports(tmp_path, monkeypatch, capsys):
    tags = {}
    monkeypatch.setattr(
        "pipeline.training.validation.translate_slices",
        lambda stacks, *rest, **options: stacks[:, stacks.shape[1] // 2].copy(),
    )
    monkeypatch.setattr("pipeline.tracking.tracker.Tracker.set_tags", lambda tracker, new: tags.update(new))
    assert phantom_run(tmp_path / "run", *QUICK, *SHORT) == 0
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "epoch" in line]
    page = (tmp_path / "run" / "report.html").read_text()
    for direction in ("T1_to_T2", "T2_to_T1"):
        arrow = direction.replace("_to_", " → ")
        assert [line[f"detectors/{direction}/identity_collapse"] for line in validated] == [0, 0, 0]
        assert printed.err.count(f"identity collapse, {arrow}: 0.00 after epoch 2, below 0.5") == 1
        (summary,) = [line for line in printed.out.splitlines() if line.startswith("warned during training")]
        assert f"identity collapse, {arrow}: 0.00 after epoch 2, below 0.5" in summary
        assert f"identity collapse, {arrow}: 0.00 after epoch 2, below 0.5" in tags["warnings"]
        assert f'<th scope="row">identity collapse, {arrow}</th><td>0.00 after epoch 2, below 0.5</td>' in page
    assert printed.err.count("warning: identity collapse, ") == 1  # one line for both directions
    assert "mode collapse" not in printed.err + page
    assert "Warnings during training" in page and "Warnings stood when training ended" in page
