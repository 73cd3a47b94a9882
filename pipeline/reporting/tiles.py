"""Building blocks of the report's pictures: slices as upright tiles, and sheets of labelled tiles."""

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.utils.files import atomic_write

RADIOLOGICAL = "Radiological convention: the patient's left is on the picture's right."
ERROR_COLOURS = "inferno"

_PAPER, _INK, _FAINT = (16, 17, 20), (236, 237, 240), (160, 164, 172)
_GAP, _MARGIN = 6, 14  # pixels
LARGEST_TILE = 256  # pixels

Tile = np.ndarray  # (height, width, 3) uint8


def as_displayed(slice_: np.ndarray) -> np.ndarray:
    """Turn a slice cut from an RAS volume into radiological orientation: (A, B) -> (B, A).

    The second axis runs up (anterior in an axial slice, superior in a coronal or sagittal one) and the first runs to
    the left, so that the patient's left is on the picture's right and a sagittal nose points left.
    """
    return slice_.T[::-1, ::-1]  # (B, A)


def gray_tile(image: np.ndarray, low: float = -1.0, high: float = 1.0) -> Tile:
    """Return an (H, W) image as gray levels: `low` and below (and NaN) black, `high` and above white."""
    share = (np.asarray(image, dtype=np.float64) - low) / max(high - low, 1e-12)
    gray = np.rint(np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)  # (H, W, 3)


def error_tile(share: np.ndarray) -> Tile:
    """Return an (H, W) image of values in [0, 1] in the error colours; 0 and below (and NaN) is the darkest."""
    colours = matplotlib.colormaps[ERROR_COLOURS](np.clip(np.nan_to_num(share), 0, 1), bytes=True)
    return np.ascontiguousarray(colours[..., :3])


def colour_bar(width: int, top_label: str) -> Tile:
    """Return a horizontal bar of the error colours, `width` pixels wide, labelled from "0" to `top_label`."""
    bar, height, text_size = 12, 36, 16
    picture = Image.new("RGB", (width, height), _PAPER)
    ramp = np.tile(np.linspace(0, 1, width), (bar, 1))
    picture.paste(Image.fromarray(error_tile(ramp)), (0, 0))
    draw = ImageDraw.Draw(picture)
    draw.text((0, bar + 5), "0", fill=_FAINT, font=font(text_size))
    label = fitted_text(top_label, width - 20, text_size)
    draw.text((width, bar + 5), label, fill=_FAINT, font=font(text_size), anchor="ra")
    return np.asarray(picture)


def caption_tile(width: int, text: str, text_size: int) -> Tile:
    """Return one line of centred text, `width` pixels wide, for a sheet's row below a tile."""
    picture = Image.new("RGB", (width, text_size + 8), _PAPER)
    draw = ImageDraw.Draw(picture)
    line = fitted_text(text, width, text_size)
    draw.text((width // 2, 2), line, fill=_FAINT, font=font(text_size), anchor="ma")
    return np.asarray(picture)


def resized(tile: Tile, height: int, width: int) -> Tile:
    """Return a tile at another size, by bicubic interpolation."""
    if tile.shape[:2] == (height, width):
        return tile
    return np.asarray(Image.fromarray(tile).resize((width, height), Image.Resampling.BICUBIC))


def legible(tile: Tile) -> Tile:
    """Enlarge a small tile by an integer factor, or shrink a large one; the longer side is at most 256 pixels."""
    height, width = tile.shape[:2]
    longest = max(height, width)
    factor = LARGEST_TILE // longest or LARGEST_TILE / longest
    return resized(tile, max(1, round(height * factor)), max(1, round(width * factor)))


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return a font of `size` pixels with arrows, Greek and Cyrillic (DejaVu Sans from matplotlib)."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def fitted_text(text: str, width: int, size: int) -> str:
    """Return a text as one line, shortened with an ellipsis if it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def sheet(
    rows: Sequence[Sequence[Tile | None]],
    *,
    column_labels: Sequence[str],
    row_labels: Sequence[str] = (),
    title: str = "",
    footer: str = "",
    text_size: int = 15,
) -> Tile:
    """Arrange tiles in a grid with column labels, a title above and a footer below.

    Tiles of any size are centred in their cells; None leaves a cell empty. `text_size`, in pixels, is the labels'; the
    title's is a little larger, the footer's smaller.
    """
    # Compute the size of the sheet, and the corners of its cells.
    title_size, footer_size = round(text_size * 1.2), round(text_size * 0.87)
    widths = [max([tile.shape[1] for tile in column if tile is not None] or [0]) for column in zip(*rows, strict=True)]
    heights = [max([tile.shape[0] for tile in row if tile is not None] or [0]) for row in rows]
    left_margin = _MARGIN + (
        max(round(font(text_size).getlength(label)) for label in row_labels) + 12 if row_labels else 0
    )
    top = _MARGIN + (2 * title_size if title else 0) + text_size + 10
    lefts = left_margin + np.cumsum([0, *(width + _GAP for width in widths)])
    tops = top + np.cumsum([0, *(height + _GAP for height in heights)])
    width = int(lefts[-1]) - _GAP + _MARGIN
    bottom = int(tops[-1]) - _GAP
    picture = Image.new("RGB", (width, bottom + (footer_size + 14 if footer else 0) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(picture)

    # Write title, footer and labels.
    if title:
        line = fitted_text(title, width - 2 * _MARGIN, title_size)
        draw.text((_MARGIN, _MARGIN), line, fill=_INK, font=font(title_size))
    if footer:
        line = fitted_text(footer, width - 2 * _MARGIN, footer_size)
        draw.text((_MARGIN, bottom + 10), line, fill=_FAINT, font=font(footer_size))
    for label, x, cell in zip(column_labels, lefts, widths, strict=False):
        line = fitted_text(label, cell, text_size)
        draw.text((int(x) + cell // 2, top - 8), line, fill=_INK, font=font(text_size), anchor="ms")
    for label, y, cell in zip(row_labels, tops, heights, strict=False):
        draw.text((_MARGIN, int(y) + cell // 2), label, fill=_INK, font=font(text_size), anchor="lm")

    # Paste the tiles.
    for row, y, cell_height in zip(rows, tops, heights, strict=False):
        for tile, x, cell_width in zip(row, lefts, widths, strict=False):
            if tile is not None:
                corner = (int(x) + (cell_width - tile.shape[1]) // 2, int(y) + (cell_height - tile.shape[0]) // 2)
                picture.paste(Image.fromarray(tile), corner)
    return np.asarray(picture)


def save_png(picture: Tile, path: Path) -> None:
    """Write an (H, W, 3) uint8 picture as PNG, atomically; raises `UserError` as `atomic_write` does."""
    atomic_write(path, lambda stream: stream.write(png_bytes(picture)))


def png_bytes(picture: Tile) -> bytes:
    """Return an (H, W, 3) uint8 picture as the bytes of a PNG file."""
    stream = BytesIO()
    # Level 3 takes a third of the default level's time, for the same size.
    Image.fromarray(picture).save(stream, format="PNG", compress_level=3)
    return stream.getvalue()
