"""Mosaic of a translated volume: slices along the slicing axis, and the two planes across them."""

from collections.abc import Sequence

import numpy as np

from pipeline.reporting.tiles import RADIOLOGICAL, Tile, as_displayed, gray_tile, resized, sheet
from transforms.slices import AXES, cut_slices

_LONGEST_TILE = 170  # pixels; all tiles have the same millimetres per pixel


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
    footer: str = RADIOLOGICAL,
) -> Tile:
    """Draw source, translated and (if given) real volume as rows of slices in true proportions.

    The first columns are `slices` evenly spaced slices along `axis`; the last two are the middle planes of the two
    other axes, in which slices that disagree with their neighbours show as stripes. Each volume is windowed from its
    own 0.5 to its own 99.5 percentile.

    Args:
        source: (X, Y, Z) RAS voxels.
        translated: (X, Y, Z) on the same grid.
        real: (X, Y, Z) on the same grid, or None.
        spacing_mm: Voxel spacing along the three axes.
        source_name: Name of the source contrast.
        target_name: Name of the target contrast.
        axis: "axial", "coronal" or "sagittal": plane of the network's slices.
        slices: Number of these slices to show.
        title: One line above; "" for none.
        footer: One line below; "" for none.

    Returns:
        (height, width, 3) uint8, upright, patient's left on the picture's right.
    """
    volumes = {source_name: source, f"{target_name} (translated)": translated, f"{target_name} (real)": real}
    volumes = {name: np.asarray(volume) for name, volume in volumes.items() if volume is not None}
    for name, volume in volumes.items():
        if volume.shape != source.shape:
            raise ValueError(
                f"mosaic: {name} has shape {volume.shape}, the source {source.shape}; put them on one grid"
            )
    planes = _planes(source, axis, slices)
    scale = _LONGEST_TILE / max(extent * spacing for extent, spacing in zip(source.shape, spacing_mm, strict=True))
    rows = [
        [_tile(volume, plane, index, spacing_mm, scale, window) for plane, index in planes]
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


def _tile(
    volume: np.ndarray, plane: str, index: int, spacing_mm: Sequence[float], scale: float, window: tuple[float, float]
) -> Tile:
    """Return one plane at `scale` pixels a millimetre."""
    first_mm, second_mm = (spacing for number, spacing in enumerate(spacing_mm) if number != AXES[plane])
    tile = gray_tile(as_displayed(cut_slices(volume, plane)[index]), *window)
    height, width = (round(count * mm * scale) for count, mm in zip(tile.shape, (second_mm, first_mm), strict=False))
    return resized(tile, max(1, height), max(1, width))
