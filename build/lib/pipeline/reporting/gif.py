"""The training GIF: the same slices, one frame per epoch."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from math import sqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from pipeline.reporting.tiles import error_tile, fitted_text, font
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write

_STRIP = 34  # pixels above each frame, for its title
_PAPER, _INK, _TRACK, _DONE = (16, 17, 20), (236, 237, 240), (52, 54, 60), (120, 170, 255)


def epoch_title(epoch: int) -> str:
    """Return the title of a frame: "untrained" before the first epoch, then "epoch 12"."""
    return f"epoch {epoch}" if epoch else "untrained"


def save_gif(
    frames: Sequence[Path | np.ndarray],
    path: Path,
    titles: Sequence[str],
    *,
    frame_ms: int = 150,
    end_ms: int = 3000,
    max_frames: int = 120,
    max_width: int = 900,
    max_bytes: int = 5 * 2**20,
) -> None:
    """Write frames as a repeating GIF, each with a title and a progress line above; written atomically.

    Longer series are thinned evenly, keeping the first and the last frame; the first frame is shown for a third of the
    last one's time. Frames are shrunk until the file is below `max_bytes` or they are 320 pixels wide.

    Args:
        frames: PNG files (read one by one, so that a resumed run also shows its earlier epochs) or (H, W, 3) uint8
            arrays, all of the same size.
        path: The GIF.
        titles: Title of each frame, such as from `epoch_title`.
        frame_ms: Duration of a frame.
        end_ms: Duration of the last frame.
        max_frames: Maximum number of frames.
        max_width: Maximum width of a frame in pixels.
        max_bytes: Maximum size of the file.

    Raises:
        UserError: A frame cannot be read, or differs in size from the last one.
        ValueError: There are no frames, or not as many titles as frames.
    """
    if not frames or len(frames) != len(titles):
        raise ValueError(f"a GIF needs one title a frame and at least one frame: {len(frames)} and {len(titles)}")
    frame_indices = thinned(len(frames), max_frames)
    chosen = [(frames[index], titles[index]) for index in frame_indices]
    width, height = _read(chosen[-1][0]).size
    durations = [frame_ms] * len(chosen)
    durations[0], durations[-1] = max(frame_ms, end_ms // 3), end_ms
    scale = min(1.0, max_width / width)
    sample_frames = [chosen[index] for index in thinned(len(chosen), 6)]
    for trial_frames in (sample_frames, chosen):  # a few frames first, to find the approximate scale quickly
        while True:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            encoded = _encode(trial_frames, (width, height), size, durations[: len(trial_frames)])
            expected_bytes = len(encoded) * len(chosen) / len(trial_frames)
            if expected_bytes <= max_bytes or size[0] <= 320:
                break
            scale = max(320 / width, scale * min(0.9, sqrt(max_bytes / expected_bytes)))
    atomic_write(path, lambda stream: stream.write(encoded))


def thinned(count: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced indices from 0 … count - 1, including the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)] if most > 1 else [count - 1]


def _encode(
    chosen: Sequence[tuple[Path | np.ndarray, str]],
    expected: tuple[int, int],
    size: tuple[int, int],
    durations: Sequence[int],
) -> bytes:
    """Return the bytes of the GIF; all frames share a palette, which avoids flicker and keeps static parts small."""
    palette = _palette()

    def pictures() -> Iterator[Image.Image]:
        for number, frame in enumerate(chosen):
            picture = _frame_with_title(frame, expected, size, (number + 1) / len(chosen))
            yield picture.quantize(palette=palette, dither=Image.Dither.NONE)

    series = pictures()
    stream = BytesIO()
    next(series).save(
        stream, format="GIF", save_all=True, append_images=series, duration=list(durations), loop=0, optimize=False
    )
    return stream.getvalue()


def _palette() -> Image.Image:
    """Return a palette picture of evenly spaced grays, the error colours and those of the strip."""
    grays = np.linspace(0, 255, 64).round().astype(np.uint8)[:, None].repeat(3, axis=1)  # Pillow looks up 6 bits
    errors = error_tile(np.linspace(0, 1, 96)[None])[0]
    colours = np.concatenate([grays, errors, np.array([_PAPER, _INK, _TRACK, _DONE], dtype=np.uint8)])
    picture = Image.new("P", (1, 1))
    picture.putpalette(colours.tobytes())
    return picture


def _frame_with_title(
    frame: tuple[Path | np.ndarray, str], expected: tuple[int, int], size: tuple[int, int], fraction_done: float
) -> Image.Image:
    """Return a frame at `size` below a strip with its title and a progress line for `fraction_done`."""
    source, title = frame
    picture = _read(source)
    if picture.size != expected:
        raise UserError(
            f"{source if isinstance(source, Path) else title}: {picture.width}x{picture.height} pixels where the last "
            f"frame has {expected[0]}x{expected[1]}; remove the frames of another configuration"
        )
    titled = Image.new("RGB", (size[0], size[1] + _STRIP), _PAPER)
    titled.paste(picture.resize(size, Image.Resampling.HAMMING), (0, _STRIP))
    draw = ImageDraw.Draw(titled)
    draw.text((size[0] // 2, 24), fitted_text(title, size[0] - 8, 18), fill=_INK, font=font(18), anchor="ms")
    draw.rectangle((0, _STRIP - 3, size[0], _STRIP - 2), fill=_TRACK)
    draw.rectangle((0, _STRIP - 3, round(size[0] * fraction_done), _STRIP - 2), fill=_DONE)
    return titled


def _read(frame: Path | np.ndarray) -> Image.Image:
    """Return a frame as an RGB picture, loaded into memory."""
    if not isinstance(frame, Path):
        return Image.fromarray(frame)
    try:
        with Image.open(frame) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{frame}: not a readable picture ({error}); remove it and draw the GIF again") from error
