import numpy as np
import pytest

from pipeline.reporting.panels import SampleRow, error_share, sample_panel
from pipeline.reporting.tiles import error_tile

DARKEST, BRIGHTEST = error_tile(np.array([[0.0, 1.0]]))[0]


def black(size=(64, 64)):
    return np.full(size, -1.0, dtype=np.float32)


def gray_boxes(picture):
    """Return (top, left, bottom, right) of the gray tiles from left to right: text and paper are never pure gray."""
    gray = (picture == picture[..., :1]).all(axis=2)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], gray.any(axis=0).astype(int), [0]])))
    boxes = []
    for left, right in edges.reshape(-1, 2):
        rows = np.flatnonzero(gray[:, left:right].any(axis=1))
        boxes.append((int(rows[0]), int(left), int(rows[-1]) + 1, int(right)))
    return boxes


def count(picture, colour):
    return int((picture == colour).all(axis=2).sum())


def test_a_bright_spot_left_anterior_is_in_the_top_right_of_the_input():
    source = black()
    source[:8, -8:] = 1.0  # left, anterior
    picture = sample_panel([SampleRow(source, black(), black())], source="T1", target="T2")
    top, left, bottom, right = gray_boxes(picture)[0]
    rows, columns = np.nonzero((picture == 255).all(axis=2))
    assert rows.max() < (top + bottom) / 2 and rows.min() == top
    assert columns.min() > (left + right) / 2 and columns.max() == right - 1


def test_columns_are_input_translation_and_target_in_this_order():
    levels = (-0.5, 0.0, 0.5)
    row = SampleRow(*(np.full((64, 64), level, dtype=np.float32) for level in levels))
    picture = sample_panel([row], source="T1", target="T2")
    shown = [picture[box[0] + 9, box[1] + 9, 0] for box in gray_boxes(picture)]
    assert shown == [64, 128, 191]


def test_equal_images_have_an_error_map_of_the_darkest_colour_alone():
    image = np.random.default_rng(0).uniform(-1, 1, (64, 64))
    picture = sample_panel([SampleRow(image, image, image)], source="T1", target="T2")
    assert count(picture, DARKEST) >= 256 * 256
    worst = sample_panel([SampleRow(image, black(), -black())], source="T1", target="T2")
    assert count(worst, BRIGHTEST) >= 256 * 256


def test_the_error_is_a_share_of_the_intensity_range():
    assert error_share(np.array([-1.0, 0.0, 1.0]), np.array([1.0, 0.5, 1.0])).tolist() == [1.0, 0.25, 0.0]


def test_the_error_scale_can_end_lower():
    picture = sample_panel(
        [SampleRow(black(), black(), np.zeros((64, 64)))], source="T1", target="T2", error_top=0.5
    )  # an error of half the range
    assert count(picture, BRIGHTEST) >= 256 * 256


def test_without_pairs_the_reconstruction_takes_the_place_of_target_and_error():
    row = SampleRow(black(), black(), reconstructed=np.zeros((64, 64)))
    picture = sample_panel([row], source="T1", target="T2")
    boxes = gray_boxes(picture)
    assert len(boxes) == 3
    assert picture[boxes[2][0] + 9, boxes[2][1] + 9, 0] == 128
    assert count(picture, DARKEST) == 0


def test_a_row_without_its_target_leaves_the_cell_empty():
    rows = [SampleRow(black(), black(), black()), SampleRow(black(), black())]
    picture = sample_panel(rows, source="T1", target="T2")
    top, left, bottom, right = gray_boxes(picture)[2]
    assert (bottom - top, right - left) == (256, 256)


@pytest.mark.parametrize(
    ("size", "tile"),
    [((128, 128), (256, 256)), ((256, 256), (256, 256)), ((64, 48), (192, 256)), ((181, 217), (217, 181))],
)
def test_tiles_are_legible_at_every_slice_size(size, tile):
    picture = sample_panel([SampleRow(black(size), black(size), black(size))], source="T1", target="T2")
    top, left, bottom, right = gray_boxes(picture)[0]
    assert (bottom - top, right - left) == tile


def test_a_large_slice_is_shrunk_to_the_largest_tile():
    size = (512, 384)
    picture = sample_panel([SampleRow(black(size), black(size))], source="T1", target="T2")
    top, left, bottom, right = gray_boxes(picture)[0]
    assert (bottom - top, right - left) == (192, 256)


def test_frames_of_different_epochs_have_one_size():
    rng = np.random.default_rng(0)
    sizes = {
        sample_panel([SampleRow(black(), rng.uniform(-1, 1, (64, 64)), black())] * 3, source="a", target="b").shape
        for _ in range(3)
    }
    assert len(sizes) == 1


def test_no_slices_is_an_error():
    with pytest.raises(ValueError, match="at least one slice"):
        sample_panel([], source="T1", target="T2")
