"""Pictures of slices: sample panels, the same slices by several methods, and mosaics of whole volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.reporting.tiles import (
    RADIOLOGICAL,
    Tile,
    as_displayed,
    caption_tile,
    colour_bar,
    error_tile,
    gray_tile,
    legible,
    resized,
    sheet,
)
from transforms.slices import AXES, cut_slices

_PANEL_TEXT = 19  # pixels: still legible at half size, where a page shows two panels side by side
_METHODS_TEXT = 17  # pixels
_LONGEST_TILE = 170  # pixels, of a mosaic; all tiles have the same millimetres per pixel


@dataclass(frozen=True)
class SampleRow:
    """One slice of a panel: (A, B) arrays in [-1, 1], cut from an RAS volume."""

    source: np.ndarray
    translated: np.ndarray
    real: np.ndarray | None = None
    reconstructed: np.ndarray | None = None  # translated back; shown if no row of the panel has a real target
    label: str = ""  # such as the subject


def sample_panel(rows: Sequence[SampleRow], *, source: str, target: str, footer: str = RADIOLOGICAL) -> Tile:
    """Draw slices as rows of input | translated | real target | error, upright, patient's left on the picture's right.

    If no row has a real target, the columns are input | translated | reconstructed. The error is the absolute
    difference as a share of the intensity range (0 for equal images, 1 for -1 against +1), on a fixed colour scale.

    There is at least one row. Tiles are at most 256 pixels long; small slices are enlarged to between 129 and 256.
    """
    labels = [row.label for row in rows] if any(row.label for row in rows) else []
    tiles = [[_tile(row.source), _tile(row.translated)] for row in rows]
    columns = [f"{source} (input)", f"{target} (translated)"]
    if all(row.real is None for row in rows):
        columns.append(f"{source} (reconstructed)")
        for cells, row in zip(tiles, rows, strict=True):
            cells.append(_tile(row.reconstructed))
    else:
        columns += [f"{target} (real)", "abs. error"]
        for cells, row in zip(tiles, rows, strict=True):
            cells += [_tile(row.real), _error_tile(row)]
        error_width = max(cells[3].shape[1] for cells in tiles if cells[3] is not None)
        tiles.append([None, None, None, colour_bar(error_width, "100% of range")])
        labels += [""] if labels else []
    return sheet(tiles, column_labels=columns, row_labels=labels, footer=footer, text_size=_PANEL_TEXT)


def _tile(slice_: np.ndarray | None) -> Tile | None:
    return None if slice_ is None else legible(gray_tile(as_displayed(slice_)))


def _error_tile(row: SampleRow) -> Tile | None:
    if row.real is None:
        return None
    share = np.abs(row.translated.astype(np.float64) - row.real) / 2  # 0 for equal images, 1 for black against white
    return legible(error_tile(as_displayed(share)))


@dataclass(frozen=True)
class SliceOfMethods:
    """One slice, (A, B) arrays in [-1, 1] cut from an RAS volume."""

    label: str  # such as the subject
    source: np.ndarray
    translations: Mapping[str, tuple[np.ndarray, str]]  # method -> (translation, caption such as its PSNR)
    real: np.ndarray


def side_by_side(rows: Sequence[SliceOfMethods], methods: Sequence[str], *, title: str, footer: str = "") -> Tile:
    """Draw slices as rows of input | each method | real target, upright, captions below the translations.

    All gray levels run from -1 (black) to 1 (white), so that errors of brightness are visible.

    `methods` are the columns between input and real target, in order. There is at least one row.
    """
    grid, labels = [], []
    for row in rows:
        source, real = _tile(row.source), _tile(row.real)
        tiles = [_tile(row.translations[name][0]) if name in row.translations else None for name in methods]
        captions = [
            None if tile is None else caption_tile(tile.shape[1], row.translations[name][1], _METHODS_TEXT)
            for name, tile in zip(methods, tiles, strict=True)
        ]
        grid += [[source, *tiles, real], [None, *captions, None]]
        labels += [row.label, ""]
    columns = ["input", *methods, "real target"]
    return sheet(grid, column_labels=columns, row_labels=labels, title=title, footer=footer, text_size=_METHODS_TEXT)


def volume_mosaic(
    source: np.ndarray,
    translated: np.ndarray,
    real: np.ndarray | None,
    *,
    spacing_mm: Sequence[float],
    source_name: str,
    target_name: str,
    axis: str = "axial",
    slices: int = 6,
    title: str = "",
    footer: str = "",
) -> Tile:
    """Draw source, translated and (if given) real volume as rows of slices in true proportions.

    The tile is (H, W, 3) uint8. Its first columns are `slices` evenly spaced slices along `axis` ("axial", "coronal" or
    "sagittal"); the last two are the middle planes of the two other axes, in which slices that disagree with their
    neighbours show as stripes. Each volume is windowed from its own 0.5 to its own 99.5 percentile. They are (X, Y, Z)
    RAS voxels on one grid, and are shown upright, the patient's left on the picture's right.
    """
    volumes = {source_name: source, f"{target_name} (translated)": translated}
    if real is not None:
        volumes[f"{target_name} (real)"] = real
    planes = _planes(source, axis, slices)
    scale = _LONGEST_TILE / max(extent * spacing for extent, spacing in zip(source.shape, spacing_mm, strict=True))
    rows = [
        [_plane_tile(volume, plane, index, spacing_mm, scale, window) for plane, index in planes]
        for volume, window in ((volume, _window(volume)) for volume in volumes.values())
    ]
    columns = [f"{plane} {index + 1}" for plane, index in planes]
    return sheet(rows, column_labels=columns, row_labels=list(volumes), title=title, footer=footer)


def _planes(volume: np.ndarray, axis: str, slices: int) -> list[tuple[str, int]]:
    """Return (plane, index) of evenly spaced slices of the head along `axis`, then of the two other middle planes."""
    low, high = _window(volume)
    foreground = volume > low + 0.15 * (high - low)
    inside = {plane: _extent(cut_slices(foreground, plane)) for plane in AXES}
    first, last = inside[axis]
    steps = (np.arange(slices) + 0.5) / slices  # centres of `slices` equal intervals
    chosen = [(axis, int(index)) for index in np.unique(np.rint(first + steps * (last - first)).astype(int))]
    across = [(plane, (start + end) // 2) for plane, (start, end) in inside.items() if plane != axis]
    return chosen + across[::-1]  # coronal before sagittal


def _extent(mask: np.ndarray) -> tuple[int, int]:
    """Return the first and last slice of an (N, H, W) mask with at least a tenth of the fullest slice's voxels."""
    counts = mask.reshape(len(mask), -1).sum(axis=1)
    if not counts.any():
        return 0, len(mask) - 1
    occupied = np.flatnonzero(counts >= 0.1 * counts.max())
    return int(occupied[0]), int(occupied[-1])


def _window(volume: np.ndarray) -> tuple[float, float]:
    """Return the intensities shown as black and as white: the 0.5 and 99.5 percentiles of the finite voxels."""
    finite = volume[np.isfinite(volume)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    return float(low), float(high)


def _plane_tile(
    volume: np.ndarray, plane: str, index: int, spacing_mm: Sequence[float], scale: float, window: tuple[float, float]
) -> Tile:
    """Return one plane at `scale` pixels a millimetre."""
    first_mm, second_mm = (spacing for number, spacing in enumerate(spacing_mm) if number != AXES[plane])
    tile = gray_tile(as_displayed(cut_slices(volume, plane)[index]), *window)
    height, width = (round(count * mm * scale) for count, mm in zip(tile.shape, (second_mm, first_mm), strict=False))
    return resized(tile, max(1, height), max(1, width))
