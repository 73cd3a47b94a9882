import numpy as np
import pytest

from pipeline.reporting.mosaic import volume_mosaic

NAMES = {"source_name": "T1", "target_name": "T2"}


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


def sizes(row):
    return [(bottom - top, right - left) for top, left, bottom, right in row]


def ball(shape, spacing_mm):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    offset_mm = (grid - (np.array(shape) - 1) / 2) * spacing_mm
    return (np.linalg.norm(offset_mm, axis=-1) < 25).astype(np.float32)


def test_tiles_have_the_proportions_of_the_head_in_millimetres():
    volume = ball((40, 60, 10), (1, 1, 6))  # 40 x 60 x 60 mm
    picture = volume_mosaic(volume, volume, volume, spacing_mm=(1, 1, 6), slices=2, **NAMES)
    assert [sizes(row) for row in boxes(picture)] == [[(170, 113), (170, 113), (170, 113), (170, 170)]] * 3


def test_a_ball_stays_round_in_the_planes_that_cut_across_thick_slices():
    volume = ball((60, 60, 20), (1, 1, 3))
    picture = volume_mosaic(volume, volume, None, spacing_mm=(1, 1, 3), slices=1, **NAMES)
    for top, left, bottom, right in boxes(picture)[0]:
        rows, columns = np.nonzero(picture[top:bottom, left:right, 0] > 127)
        assert np.ptp(rows) / np.ptp(columns) == pytest.approx(1, abs=0.1)


def test_without_a_real_volume_there_are_two_rows():
    volume = ball((30, 30, 30), (2, 2, 2))
    assert len(boxes(volume_mosaic(volume, volume, None, spacing_mm=(2, 2, 2), **NAMES))) == 2


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_slices_run_along_the_slicing_axis_and_two_planes_cut_across(axis):
    volume = ball((30, 30, 30), (2, 2, 2))
    row = boxes(volume_mosaic(volume, volume, volume, spacing_mm=(2, 2, 2), axis=axis, slices=4, **NAMES))[0]
    assert len(row) == 4 + 2


def test_a_stripe_between_slices_shows_in_both_cutting_planes():
    volume = ball((30, 30, 30), (2, 2, 2))
    translated = volume.copy()
    translated[:, :, ::2] *= 0.3
    picture = volume_mosaic(volume, translated, None, spacing_mm=(2, 2, 2), slices=3, **NAMES)
    for top, left, bottom, right in boxes(picture)[1][-2:]:
        middle = picture[top:bottom, (left + right) // 2, 0].astype(int)
        assert (np.abs(np.diff(np.sign(middle - 128))) > 0).sum() > 10


def test_every_plane_is_upright_with_left_on_the_right_and_the_nose_to_the_left():
    volume = np.full((30, 30, 30), 0.4, dtype=np.float32)
    volume[0:8, 22:30, 22:30] = 1.0  # left, anterior, superior
    volume[0, 0, 0] = 0.0
    picture = volume_mosaic(volume, volume, None, spacing_mm=(1, 1, 1), slices=6, **NAMES)
    highest_axial = boxes(picture)[0][5]
    top, left, bottom, right = highest_axial
    rows, columns = np.nonzero(picture[top:bottom, left:right, 0] == 255)
    assert rows.min() == 0 and columns.max() == right - left - 1 and rows.max() < 60 and columns.min() > 100


@pytest.mark.parametrize(("plane", "first_axis_is_left"), [("coronal", True), ("sagittal", False)])
def test_superior_is_up_in_the_cutting_planes(plane, first_axis_is_left):
    volume = ball((30, 30, 30), (2, 2, 2)) * 0.5
    volume[:, :, 20:][volume[:, :, 20:] > 0] = 1.0  # the top of the head is bright
    if first_axis_is_left:
        volume[15:][volume[15:] == 1.0] = 0.5  # only on the left
    else:
        volume[:, :15][volume[:, :15] == 1.0] = 0.5  # only in front
    picture = volume_mosaic(volume, volume, None, spacing_mm=(2, 2, 2), slices=1, **NAMES)
    top, left, bottom, right = boxes(picture)[0][1 if plane == "coronal" else 2]
    rows, columns = np.nonzero(picture[top:bottom, left:right, 0] == 255)
    assert rows.mean() < 85
    assert (columns.mean() > 85) == first_axis_is_left


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


def test_volumes_on_different_grids_are_refused():
    with pytest.raises(ValueError, match=r"T2 \(real\) has shape \(4, 4, 5\)"):
        volume_mosaic(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), np.zeros((4, 4, 5)), spacing_mm=(1, 1, 1), **NAMES)
