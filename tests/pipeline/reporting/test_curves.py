import json

import numpy as np
import pytest
from PIL import Image

from pipeline.reporting.curves import grouped, loss_limits, read_series, save_curves, smoothed
from pipeline.utils.errors import UserError


def write(path, records, torn=""):
    lines = [json.dumps({"step": step, "time": 1.0, **values}) for step, values in records]
    path.write_text("\n".join([*lines, torn]))
    return path


def test_a_picture_is_drawn_from_a_run_with_odd_contrast_names(tmp_path):
    fixed = {"train/learning_rate": 2e-4, "validation/b_to_a/ssim": 0.1}
    rising = ("train/cycle_a", "validation/T$1 {x_to_$\\frac/psnr", "validation/score")
    records = [(step, fixed | dict.fromkeys(rising, 10 + step / 100)) for step in range(1, 4000)]
    path = write(tmp_path / "metrics.jsonl", records)
    save_curves(path, tmp_path / "curves.png", steps_per_epoch=100)
    with Image.open(tmp_path / "curves.png") as opened:
        picture = np.asarray(opened.convert("RGB"))
    assert picture.shape[1] > 1000 and picture.shape[0] > 500
    assert tuple(picture[0, 0]) == (255, 255, 255)
    assert (picture.std(axis=2) > 20).sum() > 1000  # coloured lines


def test_a_torn_last_line_and_values_that_are_not_finite_are_left_out(tmp_path):
    records = [(1, {"train/cycle_a": 3.0}), (2, {"train/cycle_a": float("nan")}), (3, {"train/cycle_a": 1.0})]
    path = write(tmp_path / "metrics.jsonl", records, torn='{"step": 4, "train/cyc')
    steps, values = read_series(path)["train/cycle_a"]
    assert steps.tolist() == [1, 3] and values.tolist() == [3.0, 1.0]


def test_a_step_that_was_written_again_counts_once_with_its_later_value(tmp_path):
    records = [(10, {"train/cycle_a": 5.0}), (20, {"train/cycle_a": 4.0}), (10, {"train/cycle_a": 3.0})]
    steps, values = read_series(write(tmp_path / "metrics.jsonl", records))["train/cycle_a"]
    assert steps.tolist() == [10, 20] and values.tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("heights", "limits"),
    [([0.5, 1.0], (0, 1.08)), ([-1.0, 1.0], (-1.16, 1.16)), ([-2.0, -1.0], (-2.16, 0)), ([0.0, 0.0], (0, 1))],
)
def test_losses_are_shown_from_zero_and_those_below_it_too(heights, limits):
    assert loss_limits(heights) == pytest.approx(limits)


def test_losses_of_one_kind_share_axes_and_scores_have_a_line_per_direction():
    names = "train/learning_rate_factor train/cycle_a train/discriminator_A train/cycle_b validation/T1_to_T2/psnr "
    names += "validation/T2_to_T1/psnr validation/T1_to_T2/ssim validation/score system/cpu epoch"
    assert grouped(names.split()) == {
        "cycle loss": {"a": "train/cycle_a", "b": "train/cycle_b"},
        "discriminator loss": {"A": "train/discriminator_A"},
        "validation PSNR [dB]": {"T1 → T2": "validation/T1_to_T2/psnr", "T2 → T1": "validation/T2_to_T1/psnr"},
        "validation SSIM": {"T1 → T2": "validation/T1_to_T2/ssim"},
        "validation score": {"": "validation/score"},
        "learning rate factor": {"": "train/learning_rate_factor"},
    }


def test_smoothing_is_a_weighted_mean_of_what_came_before():
    assert smoothed(np.array([0.0, 1.0, 1.0]), 2) == pytest.approx([0, 2 / 3, 6 / 7])  # weights 1, 2, 4
    assert smoothed(np.full(50, 3.0), 10) == pytest.approx(np.full(50, 3.0))
    assert smoothed(np.array([1.0, 5.0]), 0.1) == pytest.approx([1.0, 5.0])


def test_no_metrics_is_a_clear_error(tmp_path):
    path = write(tmp_path / "metrics.jsonl", [(1, {"system/cpu": 3.0})], "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: no metrics in it"):
        save_curves(path, tmp_path / "curves.png", steps_per_epoch=1)
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        save_curves(tmp_path / "none.jsonl", tmp_path / "curves.png", steps_per_epoch=1)
    assert not (tmp_path / "curves.png").exists()
