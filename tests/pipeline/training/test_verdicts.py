import pytest

from pipeline.training.verdicts import verdicts


def test_a_verdict_names_the_direction_the_value_and_the_remedy():
    metrics = {"epoch": 3, "validation/a_to_b/psnr": 9.0, "detectors/a_to_b/mode_collapse": 0.1}
    (found,) = verdicts(metrics, 1.0)
    assert (found.name, found.direction, found.value, found.threshold, found.tripped) == (
        "mode_collapse", "a_to_b", 0.1, 0.25, True,
    )  # fmt: skip
    assert "earlier checkpoint" in found.advice


@pytest.mark.parametrize(("shift_mm", "pixel_mm", "trips"), [(1.6, 0.9, True), (1.4, 0.9, False), (1.6, 2.0, False)])
def test_a_shift_is_none_below_a_pixel_or_a_millimetre_and_a_half(shift_mm, pixel_mm, trips):
    (found,) = verdicts({"detectors/a_to_b/spatial_shift_mm": shift_mm}, pixel_mm)
    assert found.tripped is trips
    assert found.threshold == max(1.5, pixel_mm)
