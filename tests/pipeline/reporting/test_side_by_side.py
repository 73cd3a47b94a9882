import numpy as np

from pipeline.reporting.side_by_side import SliceOfMethods, side_by_side
from pipeline.reporting.tiles import caption_tile


def row(**translations):
    shape = (64, 48)
    made = {name: (np.full(shape, gray, np.float32), "12.00 dB") for name, gray in translations.items()}
    return SliceOfMethods("s1", np.full(shape, -1, np.float32), made, np.ones(shape, np.float32))


def grays(picture):
    """The share of the picture that has each level of gray (air and paper apart)."""
    levels, counts = np.unique(picture[..., 0][(np.ptp(picture, axis=2) == 0)], return_counts=True)
    return dict(zip(levels.tolist(), (counts / (256 * 192)).tolist(), strict=True))


def test_every_method_stands_between_input_and_real_target():
    picture = side_by_side([row(a=0.0, b=0.5)], ["a", "b"], title="t")
    middle = picture[picture.shape[0] // 2]
    levels = [int(level) for level in middle[:, 0]]
    order = [level for index, level in enumerate(levels) if level in (0, 128, 191, 255) and levels[index - 1] != level]
    assert [level for level in order if level in (128, 191, 255)][:3] == [128, 191, 255]
    shares = grays(picture)
    assert all(shares[level] > 0.99 for level in (0, 128, 191, 255))


def test_a_method_that_does_not_make_a_contrast_leaves_its_cell_empty():
    shares = grays(side_by_side([row(a=0.0)], ["a", "b"], title="t"))
    assert shares[128] > 0.99 and shares.get(191, 0) < 0.01


def test_captions_stand_below_what_they_are_about():
    with_caption = side_by_side([row(a=0.0)], ["a"], title="t")
    assert caption_tile(192, "12.00 dB").shape[1] == 192
    assert caption_tile(192, "12.00 dB").max() > 100  # something is written
    assert with_caption.shape[0] > 256 + 25
