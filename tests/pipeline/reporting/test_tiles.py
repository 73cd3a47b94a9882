import numpy as np
import pytest

from pipeline.reporting.tiles import colour_bar, error_tile, fitted_text, font, gray_tile, sheet


def test_gray_levels_span_the_window_and_clip_outside_it():
    tile = gray_tile(np.array([[-1.0, 0.0, 1.0, -3.0, 3.0, np.nan]]))
    assert tile.dtype == np.uint8 and tile.shape == (1, 6, 3)
    assert tile[0, :, 0].tolist() == [0, 128, 255, 0, 255, 0]
    assert (tile == tile[..., :1]).all()
    assert gray_tile(np.full((2, 2), 5.0), 5.0, 5.0).max() == 0  # a constant image and its window


def test_error_colours_get_brighter_with_the_error():
    brightness = error_tile(np.linspace(0, 1, 11)[None]).sum(axis=2)[0].astype(int)
    assert (np.diff(brightness) > 0).all()
    assert error_tile(np.array([[np.nan, -1.0, 2.0]]))[0].tolist() == error_tile(np.array([[0.0, 0, 1]]))[0].tolist()


def test_the_colour_bar_runs_from_the_darkest_to_the_brightest_colour():
    bar = colour_bar(100, "100 %")
    assert bar.shape[1] == 100
    assert bar[0, 0].tolist() == error_tile(np.zeros((1, 1)))[0, 0].tolist()
    assert bar[0, -1].tolist() == error_tile(np.ones((1, 1)))[0, 0].tolist()


@pytest.mark.parametrize("text", ["T1 → T2", "a contrast whose name is longer than its picture", "two\nlines"])
def test_text_is_one_line_that_fits(text):
    shown = fitted_text(text, 90, 15)
    assert font(15).getlength(shown) <= 90 and "\n" not in shown
    assert shown == text or shown.endswith("…") or shown == "two lines"


def test_a_sheet_holds_its_tiles_unchanged_and_centres_the_small_ones():
    big, small = np.full((40, 60, 3), 200, dtype=np.uint8), np.full((20, 30, 3), 90, dtype=np.uint8)
    picture = sheet([[big, None], [small, big]], column_labels=["a", "b"], row_labels=["x", "y"], title="t", footer="f")
    grays = (picture == 200).all(axis=2)
    assert grays.sum() == 2 * big[..., 0].size
    rows, columns = np.nonzero((picture == 90).all(axis=2))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 30)
    first_columns = np.nonzero(grays[: rows.min() - 15])[1]  # above the second row of tiles
    assert abs(columns.mean() - first_columns.mean()) <= 1
