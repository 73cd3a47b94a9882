"""The training GIF: the same slices, one frame per epoch."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import sqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from pipeline.reporting.tiles import error_tile, fitted_text, font
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write
from transforms.slices import evenly_spread

FIRST_MS, FRAME_MS, LAST_MS = 1000, 150, 3000  # durations
MAX_FRAMES = 120
MAX_WIDTH, MIN_WIDTH = 900, 320  # pixels
MAX_BYTES = 5 * 2**20

_STRIP = 34  # pixels above each frame, for its title
_PAPER, _INK, _TRACK, _DONE = (16, 17, 20), (236, 237, 240), (52, 54, 60), (120, 170, 255)


def save_gif(frames: Mapping[int, Path], path: Path) -> None:
    """Write frames as a repeating GIF, each with its epoch and a progress line above; written atomically.

    Longer series are thinned evenly, keeping the first and the last frame. Frames are shrunk until the file is below
    `MAX_BYTES` or they are `MIN_WIDTH` wide. `frames` are PNG files by epoch; epoch 0 is what training begins with.
    UserError: a frame cannot be read, or differs in size from the last one.
    """
    epochs = list(frames)
    selection = [(epochs[index], frames[epochs[index]]) for index in evenly_spread(len(epochs), MAX_FRAMES)]
    width, height = _read(selection[-1][1]).size
    durations = [FRAME_MS] * len(selection)
    durations[0], durations[-1] = FIRST_MS, LAST_MS
    scale = min(1.0, MAX_WIDTH / width)
    sample_frames = [selection[index] for index in evenly_spread(len(selection), 6)]
    for trial_frames in (sample_frames, selection):  # a few frames first, to find the approximate scale quickly
        while True:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            encoded = _encode(trial_frames, (width, height), size, durations[: len(trial_frames)])
            expected_bytes = len(encoded) * len(selection) / len(trial_frames)
            if expected_bytes <= MAX_BYTES or size[0] <= MIN_WIDTH:
                break
            scale = max(MIN_WIDTH / width, scale * min(0.9, sqrt(MAX_BYTES / expected_bytes)))
    atomic_write(path, lambda stream: stream.write(encoded))


def _encode(
    selection: Sequence[tuple[int, Path]], expected: tuple[int, int], size: tuple[int, int], durations: Sequence[int]
) -> bytes:
    """Return the bytes of the GIF; all frames share a palette, which avoids flicker and keeps static parts small."""
    palette = _palette()
    pictures = (
        _with_title(epoch, path, expected, size, number / len(selection)).quantize(
            palette=palette, dither=Image.Dither.NONE
        )
        for number, (epoch, path) in enumerate(selection, 1)
    )
    stream = BytesIO()
    next(pictures).save(
        stream, format="GIF", save_all=True, append_images=pictures, duration=list(durations), loop=0, optimize=False
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


def _with_title(
    epoch: int, path: Path, expected: tuple[int, int], size: tuple[int, int], fraction_done: float
) -> Image.Image:
    """Return a frame at `size` below a strip with its epoch and a progress line for `fraction_done`."""
    picture = _read(path)
    if picture.size != expected:
        raise UserError(
            f"{path}: {picture.width}x{picture.height} pixels where the last frame has {expected[0]}x{expected[1]}; "
            "remove the frames of another configuration"
        )
    picture_with_title = Image.new("RGB", (size[0], size[1] + _STRIP), _PAPER)
    picture_with_title.paste(picture.resize(size, Image.Resampling.HAMMING), (0, _STRIP))
    draw = ImageDraw.Draw(picture_with_title)
    title = fitted_text(f"epoch {epoch}" if epoch else "before training", size[0] - 8, 18)
    draw.text((size[0] // 2, 24), title, fill=_INK, font=font(18), anchor="ms")
    draw.rectangle((0, _STRIP - 3, size[0], _STRIP - 2), fill=_TRACK)
    draw.rectangle((0, _STRIP - 3, round(size[0] * fraction_done), _STRIP - 2), fill=_DONE)
    return picture_with_title


def _read(path: Path) -> Image.Image:
    """Return a frame as an RGB picture, loaded into memory."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path}: not a readable picture ({error}); remove it and draw the GIF again") from error
