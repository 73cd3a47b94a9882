import numpy as np
import pytest
from PIL import Image

from pipeline.reporting.gif import epoch_title, save_gif, thinned
from pipeline.reporting.tiles import save_png
from pipeline.utils.errors import UserError


def plain(level, size=(40, 60)):
    return np.full((*size, 3), level, dtype=np.uint8)


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


def test_frames_come_in_order_and_the_last_stays_longest(tmp_path):
    levels = [0, 60, 120, 180, 240]
    titles = [epoch_title(epoch) for epoch in range(5)]
    save_gif([plain(level) for level in levels], tmp_path / "training.gif", titles, frame_ms=100, end_ms=3000)
    shown, durations = read(tmp_path / "training.gif")
    assert shown == pytest.approx(levels, abs=4)
    assert durations == [1000, 100, 100, 100, 3000]


def test_frames_are_read_from_png_files(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        save_png(plain(100 * number), path)
    save_gif(paths, tmp_path / "training.gif", ["untrained", "epoch 1", "epoch 2"])
    assert read(tmp_path / "training.gif")[0] == pytest.approx([0, 100, 200], abs=4)


def test_titles_change_the_strip_above_the_frame(tmp_path):
    save_gif([plain(99, (40, 200))] * 2, tmp_path / "training.gif", ["untrained", "epoch 1"])
    with Image.open(tmp_path / "training.gif") as opened:
        first = np.asarray(opened.convert("RGB"))
        opened.seek(1)
        second = np.asarray(opened.convert("RGB"))
    assert first.shape == (40 + 34, 200, 3)
    assert (first[:28] != second[:28]).any()
    assert (first[34:] == second[34:]).all()


def test_long_trainings_are_thinned_evenly_with_first_and_last_kept(tmp_path):
    frames = [plain(number // 2) for number in range(300)]
    save_gif(frames, tmp_path / "training.gif", [epoch_title(epoch) for epoch in range(300)], max_frames=25)
    levels, _ = read(tmp_path / "training.gif")
    assert len(levels) == 25
    assert levels[0] == pytest.approx(0, abs=4) and levels[-1] == pytest.approx(149, abs=4)
    assert levels == pytest.approx(np.linspace(0, 149, 25).tolist(), abs=5)


@pytest.mark.parametrize(
    ("count", "most", "kept"),
    [(3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (9, 5, [0, 2, 4, 6, 8]), (7, 1, [6]), (7, 2, [0, 6])],
)
def test_thinning_keeps_first_and_last(count, most, kept):
    assert thinned(count, most) == kept


def test_a_single_frame_is_a_gif_too(tmp_path):
    save_gif([plain(200)], tmp_path / "training.gif", ["untrained"])
    with Image.open(tmp_path / "training.gif") as opened:
        assert opened.n_frames == 1


def test_the_file_stays_below_its_limit_by_smaller_frames(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (600, 800, 3), dtype=np.uint8) for _ in range(4)]
    save_gif(frames, tmp_path / "training.gif", ["a", "b", "c", "d"], max_bytes=600_000)
    assert (tmp_path / "training.gif").stat().st_size <= 600_000
    with Image.open(tmp_path / "training.gif") as opened:
        assert 320 <= opened.width < 800
        assert opened.n_frames == 4


def test_frames_that_stay_still_cost_next_to_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    save_gif([noise], tmp_path / "one.gif", ["epoch 0"])
    save_gif([noise] * 20, tmp_path / "many.gif", [f"epoch {number}" for number in range(20)])
    assert (tmp_path / "many.gif").stat().st_size < 2 * (tmp_path / "one.gif").stat().st_size


def test_a_damaged_frame_is_named(tmp_path):
    (tmp_path / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    with pytest.raises(UserError, match=r"0001\.png: not a readable picture"):
        save_gif([plain(0), tmp_path / "0001.png"], tmp_path / "training.gif", ["a", "b"])
    assert not (tmp_path / "training.gif").exists()


def test_a_frame_of_another_size_is_named(tmp_path):
    save_png(plain(0, (20, 20)), tmp_path / "0000.png")
    with pytest.raises(UserError, match=r"0000\.png: 20x20 pixels where the last frame has 60x40"):
        save_gif([tmp_path / "0000.png", plain(0)], tmp_path / "training.gif", ["a", "b"])


def test_frames_and_titles_must_match_in_number(tmp_path):
    with pytest.raises(ValueError, match="one title a frame"):
        save_gif([plain(0)], tmp_path / "training.gif", [])
    with pytest.raises(ValueError, match="at least one frame"):
        save_gif([], tmp_path / "training.gif", [])


def test_the_network_before_its_first_epoch_is_called_untrained():
    assert [epoch_title(epoch) for epoch in (0, 1, 12)] == ["untrained", "epoch 1", "epoch 12"]
