"""The same slices translated by several methods: source, each method's translation, and the real target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.reporting.tiles import (
    Tile,
    as_displayed,
    caption_tile,
    gray_tile,
    legible,
    sheet,
)

_TEXT = 17  # pixels


@dataclass(frozen=True)
class SliceOfMethods:
    """One slice, (A, B) arrays in [-1, 1] cut from an RAS volume.

    Attributes:
        label: Label of the row, such as the subject.
        source: Source slice.
        translations: Method -> (translation, caption such as its PSNR); the cells of other methods stay empty.
        real: Real slice in the target contrast.
    """

    label: str
    source: np.ndarray
    translations: Mapping[str, tuple[np.ndarray, str]]
    real: np.ndarray


def side_by_side(rows: Sequence[SliceOfMethods], methods: Sequence[str], *, title: str, footer: str = "") -> Tile:
    """Draw slices as rows of input | each method | real target, upright, captions below the translations.

    All gray levels run from -1 (black) to 1 (white), so that errors of brightness are visible.

    Args:
        rows: At least one row.
        methods: Columns between input and real target, in order.
        title: One line above.
        footer: One line below; "" for none. `RADIOLOGICAL` for slices of volumes.

    Returns:
        (height, width, 3) uint8.
    """
    grid, labels = [], []
    for row in rows:
        source, real = _tile(row.source), _tile(row.real)
        tiles = [_tile(row.translations[name][0]) if name in row.translations else None for name in methods]
        captions = [
            None if tile is None else caption_tile(tile.shape[1], row.translations[name][1], _TEXT)
            for name, tile in zip(methods, tiles, strict=True)
        ]
        grid += [[source, *tiles, real], [None, *captions, None]]
        labels += [row.label, ""]
    columns = ["input", *methods, "real target"]
    return sheet(grid, column_labels=columns, row_labels=labels, title=title, footer=footer, text_size=_TEXT)


def _tile(slice_: np.ndarray) -> Tile:
    return legible(gray_tile(as_displayed(slice_)))
