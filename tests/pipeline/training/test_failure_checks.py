import pytest

from pipeline.training.failure_checks import check_failures


def test_a_verdict_names_the_direction_the_value_and_the_remedy():
    metrics = {"epoch": 3, "validation/a_to_b/psnr": 9.0, "detectors/a_to_b/mode_collapse": 0.1}
    (result,) = check_failures(metrics, 1.0)
    assert (result.name, result.direction, result.value, result.threshold, result.triggered) == (
        "mode_collapse", "a_to_b", 0.1, 0.25, True,
    )  # fmt: skip
    assert "earlier checkpoint" in result.check.advice


@pytest.mark.parametrize(("shift_mm", "pixel_mm", "trips"), [(0.5, 0.9, True), (0.4, 0.9, False), (0.9, 2.0, False)])
def test_a_shift_is_none_below_half_a_pixel(shift_mm, pixel_mm, trips):
    (result,) = check_failures({"detectors/a_to_b/spatial_shift_mm": shift_mm}, pixel_mm)
    assert result.triggered is trips
    assert result.threshold == pixel_mm / 2


def test_the_components_of_a_shift_are_no_verdicts():
    assert check_failures({"detectors/a_to_b/shift_x_px": 9.0, "detectors/a_to_b/shift_y_mm": 9.0}, 1.0) == []
