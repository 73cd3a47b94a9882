import numpy as np
import pytest

from pipeline.training.failure_checks import check_shifts
from pipeline.training.shifts import growing_shift, opposed_shift, shifts_by_direction


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.7, 0.0), (-0.7, 0.0), 1.4),
        ((0.7, 0.0), (-0.4, 0.0), 1.1),
        ((0.7, 0.0), (-0.1, 0.0), 0.0),  # the second may be an error of measuring
        ((0.7, 0.0), (0.0, 0.7), 0.0),
        ((1.0, 0.0), (-0.5, 0.5), 1.2071068),  # at 45 degrees: √½ of 1 + √½
        ((0.0, 0.0), (0.0, 0.0), 0.0),
    ],
)
def test_opposed_is_the_sum_of_both_as_far_as_they_oppose_each_other(first, second, expected):
    for shift, other in ((first, second), (second, first)):
        assert opposed_shift(np.array(shift), np.array(other)) == pytest.approx(expected, abs=1e-4)


def course(*shifts, every=2):
    return {every * (index + 1): np.array(shift, float) for index, shift in enumerate(shifts)}


def test_a_steady_growth_is_drawn_out_by_as_many_epochs_as_it_took_but_not_beyond_the_last():
    steady = course(*((0.1 * step, -0.1 * step) for step in range(6)))  # the last five: epochs 4 to 12
    assert growing_shift(steady, 100) == pytest.approx(np.hypot(0.9, 0.9))  # 0.5 after 12, 0.9 after 20
    assert growing_shift(steady, 14) == pytest.approx(np.hypot(0.6, 0.6))
    assert growing_shift(steady, 12) == pytest.approx(np.hypot(0.5, 0.5))


@pytest.mark.parametrize(
    "shifts",
    [
        [(0.1 * step, 0) for step in range(4)],  # too few to tell
        [(0.02 * step, 0) for step in range(5)],  # 0.08 pixels: measuring leaves as much
        [(0.8 - 0.1 * step, 0) for step in range(5)],  # it shrinks
        [(0, 0), (0.3, 0), (0, 0), (0.3, 0), (0.35, 0)],  # to and fro
    ],
)
def test_what_does_not_grow_steadily_points_nowhere(shifts):
    assert growing_shift(course(*shifts), 100) is None


def metrics(direction, x, y):
    return {f"detectors/{direction}/shift_x_px": x, f"detectors/{direction}/shift_y_px": y}


def test_shifts_are_found_among_the_metrics_by_direction():
    shifts = shifts_by_direction({"epoch": 3, "detectors/a_to_b/mode_collapse": 1.0, **metrics("a_to_b", 0.1, -0.2)})
    assert {direction: shift.tolist() for direction, shift in shifts.items()} == {"a_to_b": [0.1, -0.2]}
    assert shifts_by_direction(metrics("a_to_b", float("nan"), 0.0)) == {}  # could not be measured
    assert shifts_by_direction({"detectors/a_to_b/spatial_shift_mm": 3.0}) == {}  # of a run that kept the length alone


def test_one_direction_alone_opposes_nothing_and_one_validation_is_no_trend():
    one_way = {"a_to_b": np.array([0.4, 0.0])}
    both = one_way | {"b_to_a": np.zeros(2)}
    assert check_shifts({1: {}}, 9) == check_shifts({1: one_way}, 9) == []
    (verdict,) = check_shifts({1: both}, 9)
    assert (verdict.name, verdict.direction, verdict.value) == ("opposed_shifts", "a_to_b_to_a", 0)
    assert not verdict.triggered


def test_a_growth_has_a_verdict_in_its_direction_and_what_stopped_growing_has_one_that_is_good():
    grown = course(*((0.1 * step, 0) for step in range(5)))
    history = {epoch: {"a_to_b": shift} for epoch, shift in grown.items()}
    (verdict,) = check_shifts(history, 100)
    assert (verdict.name, verdict.direction, verdict.triggered) == ("growing_shift", "a_to_b", True)
    assert verdict.value == pytest.approx(0.8)
    history |= {epoch: {"a_to_b": np.array([0.4, 0.0])} for epoch in (12, 14, 16, 18, 20)}
    (verdict,) = check_shifts(history, 100)
    assert (verdict.value, verdict.triggered) == (0.4, False)
