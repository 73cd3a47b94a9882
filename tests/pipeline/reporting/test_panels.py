import numpy as np
import pytest

from pipeline.reporting.panels import SampleRow, SliceOfMethods, sample_panel, side_by_side, volume_mosaic
from pipeline.reporting.tiles import error_tile

NAMES = {"source_name": "T1", "target_name": "T2"}
DARKEST, BRIGHTEST = error_tile(np.array([[0.0, 1.0]]))[0]


def black(size=(64, 64)):
    return np.full(size, -1.0, dtype=np.float32)


def boxes(picture):
    """Return (top, left, bottom, right) of the tiles by row of the mosaic: text and paper are never pure gray."""
    gray = (picture == picture[..., :1]).all(axis=2)

    def runs(line):
        return np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]]))).reshape(-1, 2)

    corners = []
    for top, bottom in runs(gray.any(axis=1)):
        row = []
        for left, right in runs(gray[top:bottom].any(axis=0)):
            rows = top + np.flatnonzero(gray[top:bottom, left:right].any(axis=1))
            row.append((int(rows[0]), int(left), int(rows[-1]) + 1, int(right)))
        corners.append(row)
    return corners


def count(picture, colour):
    return int((picture == colour).all(axis=2).sum())


def test_a_bright_spot_left_anterior_is_in_the_top_right_of_the_input():
    source = black()
    source[:8, -8:] = 1.0  # left, anterior
    picture = sample_panel([SampleRow(source, black(), black())], source="T1", target="T2")
    top, left, bottom, right = boxes(picture)[0][0]
    rows, columns = np.nonzero((picture == 255).all(axis=2))
    assert rows.max() < (top + bottom) / 2 and rows.min() == top
    assert columns.min() > (left + right) / 2 and columns.max() == right - 1


def test_equal_images_have_an_error_map_of_the_darkest_colour_alone():
    image = np.random.default_rng(0).uniform(-1, 1, (64, 64))
    picture = sample_panel([SampleRow(image, image, image)], source="T1", target="T2")
    assert count(picture, DARKEST) >= 256 * 256
    worst = sample_panel([SampleRow(image, black(), -black())], source="T1", target="T2")
    assert count(worst, BRIGHTEST) >= 256 * 256
    half = sample_panel([SampleRow(image, np.zeros((64, 64)), -black())], source="T1", target="T2")
    assert count(half, error_tile(np.array([[0.5]]))[0, 0]) >= 256 * 256


def test_without_pairs_the_reconstruction_takes_the_place_of_target_and_error():
    row = SampleRow(black(), black(), reconstructed=np.zeros((64, 64)))
    picture = sample_panel([row], source="T1", target="T2")
    tiles = boxes(picture)[0]
    assert len(tiles) == 3
    assert picture[tiles[2][0] + 9, tiles[2][1] + 9, 0] == 128
    assert count(picture, DARKEST) == 0


def test_columns_are_input_translation_and_target_in_this_order_and_one_without_target_has_an_empty_cell():
    levels = (-0.5, 0.0, 0.5)
    row = SampleRow(*(np.full((64, 64), level, dtype=np.float32) for level in levels))
    picture = sample_panel([row, SampleRow(black(), black())], source="T1", target="T2")
    shown = [picture[box[0] + 9, box[1] + 9, 0] for box in boxes(picture)[0]]
    assert shown == [64, 128, 191]
    top, left, bottom, right = boxes(picture)[0][2]
    assert (bottom - top, right - left) == (256, 256)


@pytest.mark.parametrize(
    ("size", "tile"),
    [((64, 48), (192, 256)), ((181, 217), (217, 181)), ((512, 384), (192, 256))],
)
def test_tiles_are_legible_at_every_slice_size(size, tile):
    picture = sample_panel([SampleRow(black(size), black(size), black(size))], source="T1", target="T2")
    top, left, bottom, right = boxes(picture)[0][0]
    assert (bottom - top, right - left) == tile


def of_methods(**translations):
    shape = (64, 48)
    made = {name: (np.full(shape, gray, np.float32), "12.00 dB") for name, gray in translations.items()}
    return SliceOfMethods("s1", np.full(shape, -1, np.float32), made, np.ones(shape, np.float32))


def grays(picture):
    """The share of the picture that has each level of gray (air and paper apart)."""
    levels, counts = np.unique(picture[..., 0][(np.ptp(picture, axis=2) == 0)], return_counts=True)
    return dict(zip(levels.tolist(), (counts / (256 * 192)).tolist(), strict=True))


def test_every_method_stands_between_input_and_real_target():
    picture = side_by_side([of_methods(a=0.0, b=0.5)], ["a", "b"], title="t")
    middle = picture[picture.shape[0] // 2]
    levels = [int(level) for level in middle[:, 0]]
    order = [level for index, level in enumerate(levels) if level in (0, 128, 191, 255) and levels[index - 1] != level]
    assert [level for level in order if level in (128, 191, 255)][:3] == [128, 191, 255]
    shares = grays(picture)
    assert all(shares[level] > 0.99 for level in (0, 128, 191, 255))
    absent = grays(side_by_side([of_methods(a=0.0)], ["a", "b"], title="t"))
    assert absent[128] > 0.99 and absent.get(191, 0) < 0.01  # a method that does not make a contrast


def ball(shape, spacing_mm):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    offset_mm = (grid - (np.array(shape) - 1) / 2) * spacing_mm
    return (np.linalg.norm(offset_mm, axis=-1) < 25).astype(np.float32)


def test_tiles_have_the_proportions_of_the_head_in_millimetres():
    volume = ball((40, 60, 10), (1, 1, 6))  # 40 x 60 x 60 mm
    assert len(boxes(volume_mosaic(volume, volume, None, spacing_mm=(1, 1, 6), **NAMES))) == 2  # without a real volume
    picture = volume_mosaic(volume, volume, volume, spacing_mm=(1, 1, 6), slices=2, **NAMES)
    sizes = [[(bottom - top, right - left) for top, left, bottom, right in row] for row in boxes(picture)]
    assert sizes == [[(170, 113), (170, 113), (170, 113), (170, 170)]] * 3


def test_a_stripe_between_slices_shows_in_both_cutting_planes():
    volume = ball((30, 30, 30), (2, 2, 2))
    translated = volume.copy()
    translated[:, :, ::2] *= 0.3
    picture = volume_mosaic(volume, translated, None, spacing_mm=(2, 2, 2), slices=3, **NAMES)
    for top, left, bottom, right in boxes(picture)[1][-2:]:
        middle = picture[top:bottom, (left + right) // 2, 0].astype(int)
        assert (np.abs(np.diff(np.sign(middle - 128))) > 0).sum() > 10


@pytest.mark.parametrize(
    ("plane", "up", "side"), [("axial", 1, "left"), ("coronal", 2, "left"), ("sagittal", 2, "front")]
)
def test_every_plane_is_upright_with_left_on_the_right_and_the_nose_to_the_left(plane, up, side):
    volume = ball((30, 30, 30), (2, 2, 2)) * 0.5
    places = np.indices(volume.shape)
    inside = places[0] < 15 if side == "left" else places[1] >= 15
    volume[(volume > 0) & inside & (places[up] >= 20)] = 1.0
    picture = volume_mosaic(volume, volume, None, spacing_mm=(2, 2, 2), slices=1, **NAMES)
    top, left, bottom, right = boxes(picture)[0][["axial", "coronal", "sagittal"].index(plane)]
    rows, columns = np.nonzero(picture[top:bottom, left:right, 0] == 255)
    assert rows.mean() < 85
    assert (columns.mean() > 85) == (side == "left")


def test_each_volume_is_windowed_from_its_own_intensities():
    volume = ball((30, 30, 30), (2, 2, 2))
    picture = volume_mosaic(volume, volume * 900 + 30, None, spacing_mm=(2, 2, 2), slices=1, **NAMES)
    first, second = boxes(picture)
    tiles = [picture[row[0][0] : row[0][2], row[0][1] : row[0][3]] for row in (first, second)]
    assert np.array_equal(*tiles)


def test_empty_and_broken_volumes_are_drawn_too():
    empty = np.zeros((12, 12, 5), dtype=np.int16)
    broken = np.full((12, 12, 5), np.nan)
    assert len(boxes(volume_mosaic(empty, broken, None, spacing_mm=(1, 1, 1), **NAMES))) == 2
