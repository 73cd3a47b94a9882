"""Sample panels: source, translation, real target and error of a few slices, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.reporting.tiles import (
    RADIOLOGICAL,
    Tile,
    as_displayed,
    colour_bar,
    error_tile,
    gray_tile,
    legible,
    sheet,
)

_TEXT = 19  # pixels: still legible at half size, where a page shows two panels side by side


@dataclass(frozen=True)
class SampleRow:
    """One slice of a panel: (A, B) arrays in [-1, 1], cut from an RAS volume.

    Attributes:
        source: Source slice.
        translated: Translation of the source.
        real: Real slice in the target contrast; None if the subject has none.
        reconstructed: The translation translated back; shown if no row of the panel has a real target.
        label: Label of the row, such as the subject; "" for none.
    """

    source: np.ndarray
    translated: np.ndarray
    real: np.ndarray | None = None
    reconstructed: np.ndarray | None = None
    label: str = ""


def sample_panel(
    rows: Sequence[SampleRow],
    *,
    source: str,
    target: str,
    title: str = "",
    footer: str = RADIOLOGICAL,
    error_top: float = 1.0,
) -> Tile:
    """Draw slices as rows of input | translated | real target | error, upright, patient's left on the picture's right.

    If no row has a real target, the columns are input | translated | reconstructed. The error is the absolute
    difference as a share of the intensity range (0 for equal images, 1 for -1 against +1), on a fixed colour scale.

    Args:
        rows: At least one row.
        source: Name of the source contrast.
        target: Name of the target contrast.
        title: One line above; "" for none.
        footer: One line below; "" for none.
        error_top: Error of the brightest colour, as a share of the intensity range.

    Returns:
        (height, width, 3) uint8; tiles are at most 256 pixels long, small slices are enlarged to between 129 and 256.
    """
    if not rows:
        raise ValueError("a sample panel needs at least one slice")
    labels = [row.label for row in rows] if any(row.label for row in rows) else []
    if all(row.real is None for row in rows):
        tiles = [[_tile(row.source), _tile(row.translated), _tile(row.reconstructed)] for row in rows]
        columns = [f"{source} (input)", f"{target} (translated)", f"{source} (reconstructed)"]
        return sheet(tiles, column_labels=columns, row_labels=labels, title=title, footer=footer, text_size=_TEXT)
    tiles = [[_tile(row.source), _tile(row.translated), _tile(row.real), _error(row, error_top)] for row in rows]
    error_width = max(row[3].shape[1] for row in tiles if row[3] is not None)
    tiles.append([None, None, None, colour_bar(error_width, f"{error_top:.0%} of range")])
    columns = [f"{source} (input)", f"{target} (translated)", f"{target} (real)", "abs. error"]
    return sheet(
        tiles, column_labels=columns, row_labels=labels and [*labels, ""], title=title, footer=footer, text_size=_TEXT
    )


def error_share(translated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return |translated - real| / 2 of images in [-1, 1]: 0 for equal images, 1 for black against white."""
    return np.abs(np.asarray(translated, dtype=np.float64) - real) / 2


def _tile(slice_: np.ndarray | None) -> Tile | None:
    return None if slice_ is None else legible(gray_tile(as_displayed(slice_)))


def _error(row: SampleRow, error_top: float) -> Tile | None:
    if row.real is None:
        return None
    return legible(error_tile(as_displayed(error_share(row.translated, row.real)) / error_top))
