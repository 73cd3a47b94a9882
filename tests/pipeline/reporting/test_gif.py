import numpy as np
import pytest
from PIL import Image

from pipeline.reporting import gif
from pipeline.reporting.gif import save_gif
from pipeline.reporting.tiles import save_png
from pipeline.utils.errors import UserError


def plain(level, size=(40, 60)):
    return np.full((*size, 3), level, dtype=np.uint8)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes pictures as frames of successive epochs and makes the GIF of them."""

    def write(pictures, name="training"):
        frames = {epoch: tmp_path / f"{name}-{epoch:04}.png" for epoch in range(len(pictures))}
        for epoch, picture in enumerate(pictures):
            save_png(picture, frames[epoch])
        save_gif(frames, tmp_path / f"{name}.gif")
        return tmp_path / f"{name}.gif"

    return write


def read(path):
    """Return the gray level in the middle of each frame's lower part, and each frame's duration."""
    levels, durations = [], []
    with Image.open(path) as opened:
        for number in range(opened.n_frames):
            opened.seek(number)
            picture = np.asarray(opened.convert("RGB"))
            levels.append(int(picture[-10, picture.shape[1] // 2, 0]))
            durations.append(opened.info["duration"])
        assert opened.info["loop"] == 0
    return levels, durations


def test_frames_come_in_order_and_the_last_stays_longest(written):
    levels = [0, 60, 120, 180, 240]
    shown, durations = read(written([plain(level) for level in levels]))
    assert shown == pytest.approx(levels, abs=4)
    assert durations == [1000, 150, 150, 150, 3000]


def test_titles_change_the_strip_above_the_frame(written):
    with Image.open(written([plain(99, (40, 200))] * 2)) as opened:
        first = np.asarray(opened.convert("RGB"))
        opened.seek(1)
        second = np.asarray(opened.convert("RGB"))
    assert first.shape == (40 + 34, 200, 3)
    assert (first[:28] != second[:28]).any()
    assert (first[34:] == second[34:]).all()


def test_long_trainings_are_thinned_evenly_with_first_and_last_kept(written, monkeypatch):
    monkeypatch.setattr(gif, "MAX_FRAMES", 7)
    levels, _ = read(written([plain(5 * number) for number in range(40)]))
    assert levels == pytest.approx(np.linspace(0, 195, 7).tolist(), abs=6)


def test_the_file_stays_below_its_limit_by_smaller_frames(written, monkeypatch):
    monkeypatch.setattr(gif, "MAX_BYTES", 250_000)
    rng = np.random.default_rng(0)
    path = written([rng.integers(0, 255, (300, 600, 3), dtype=np.uint8) for _ in range(3)])
    assert path.stat().st_size <= 250_000
    with Image.open(path) as opened:
        assert 320 <= opened.width < 600
        assert opened.n_frames == 3


def test_a_damaged_frame_and_one_of_another_size_are_named(tmp_path):
    frames = {number: tmp_path / f"000{number}.png" for number in range(3)}
    save_png(plain(0, (20, 20)), frames[0])
    save_png(plain(0), frames[2])
    with pytest.raises(UserError, match=r"0000\.png: 20x20 pixels where the last frame has 60x40"):
        save_gif({0: frames[0], 2: frames[2]}, tmp_path / "training.gif")
    frames[1].write_bytes(b"\x89PNG\r\n\x1a\n torn")
    with pytest.raises(UserError, match=r"0001\.png: not a readable picture"):
        save_gif({1: frames[1], 2: frames[2]}, tmp_path / "training.gif")
    assert not (tmp_path / "training.gif").exists()
