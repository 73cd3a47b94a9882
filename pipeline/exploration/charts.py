"""Pictures of an exploration: overlaid histograms of all images of a contrast, and sheets of slices."""

from collections.abc import Collection, Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pipeline.data.case import Case
from pipeline.exploration.image_statistics import BINS, LONGEST_PICTURE, ImageStatistics
from pipeline.reporting.tiles import RADIOLOGICAL, Tile, as_displayed, fitted_text, gray_tile, png_bytes, sheet

MOST_NAMED = 6  # lines with a label
_USUAL, _UNUSUAL = "#2a6fbb", ("#d9722e", "#a13b28", "#8a5bb5", "#b8860b", "#3a9160", "#c2417c")
_NAME_PIXELS = 260


def histograms(cohort: Mapping[str, Mapping[Case, ImageStatistics]], unusual: Collection[Case]) -> bytes:
    """Draw the head's intensity histogram of every image before and after normalisation, one row per contrast.

    Args:
        cohort: Contrast -> its images.
        unusual: Cases to draw in colours of their own; the first few get labels.

    Returns:
        A PNG on white.
    """
    contrasts = [contrast for contrast, images in cohort.items() if images]
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14)  # inches
    figure = Figure(figsize=(12, 3.4 * len(contrasts)), dpi=110, layout=layout, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    centres = (np.arange(BINS) + 0.5) * (2 / BINS) - 1
    for row, contrast in enumerate(contrasts):
        images = cohort[contrast]
        raw_axes, normalised_axes = (figure.add_subplot(len(contrasts), 2, 2 * row + side + 1) for side in range(2))
        raw = {case: _centred(*image.raw_histogram) for case, image in images.items()}
        normalised = {case: (centres[1:-1], image.histogram[1:-1] * (BINS / 2)) for case, image in images.items()}
        _draw(raw_axes, f"{contrast}, as in the files", "intensity, in the file's units", raw, unusual)
        _draw(normalised_axes, f"{contrast}, normalised", "intensity in [-1, 1]", normalised, unusual)
        raw_axes.set_xlim(*_usual_span([lines[0] for lines in raw.values()]))
        raw_axes.ticklabel_format(axis="both", style="sci", scilimits=(-3, 5))
    stream = BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()


def _centred(density: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (edges[1:] + edges[:-1]) / 2, density


def _usual_span(lines: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the range from the 5th percentile of lower ends to the 95th of upper ends, widened by 5 %."""
    low = float(np.percentile([line[0] for line in lines], 5))
    high = float(np.percentile([line[-1] for line in lines], 95))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _draw(
    axes: Axes,
    title: str,
    label: str,
    lines: Mapping[Case, tuple[np.ndarray, np.ndarray]],
    unusual: Collection[Case],
) -> None:
    """Draw one line per image, the unusual ones on top."""
    usual = [line for case, line in lines.items() if case not in unusual]
    faint = max(0.06, min(0.7, 6 / max(1, len(usual))))
    for intensities, density in usual:
        axes.plot(intensities, density, color=_USUAL, alpha=faint, linewidth=1.0)
    unusual_lines = [(case, line) for case, line in lines.items() if case in unusual]
    for number, (case, (intensities, density)) in enumerate(unusual_lines):
        label_text = case.name.replace("$", r"\$") if number < MOST_NAMED else None
        axes.plot(intensities, density, color=_UNUSUAL[number % len(_UNUSUAL)], linewidth=1.6, label=label_text)
    tops = [line[1].max() for line in (usual or lines.values())]
    axes.set_ylim(0, 1.15 * float(np.percentile(tops, 95)))
    axes.set_title(title.replace("$", r"\$"), fontsize=12, loc="left", fontweight="bold")
    axes.set_xlabel(label, fontsize=10.5, color="#555555")
    axes.set_yticks([])
    axes.tick_params(labelsize=10, colors="#555555", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")
    if unusual_lines:
        axes.legend(fontsize=9, frameon=False, loc="upper right")


def slices_sheet(images: Mapping[Case, ImageStatistics], axis: str, *, oriented: bool) -> bytes:
    """Draw the normalised middle slices of images in a row, with their names above, as a PNG.

    Args:
        images: A few images.
        axis: "axial", "coronal" or "sagittal": the plane of the training slices.
        oriented: Whether anatomical directions are known, so that the patient's left is drawn on the right.
    """
    planes = [image.planes.get(axis, next(iter(image.planes.values()))) for image in images.values()]  # of 2D, the only
    tiles = [_squared(_tile(plane, oriented)) for plane in planes]
    names = [f"{case.subject} {case.session}".strip() for case in images]
    return png_bytes(sheet([tiles], column_labels=names))


def planes_sheet(rows: Mapping[str, ImageStatistics], *, oriented: bool, title: str) -> bytes:
    """Draw the three planes through the middle of each head, one row per image, as a PNG; see `slices_sheet`.

    Args:
        rows: Label -> image.
        oriented: Whether anatomical directions are known.
        title: One line above.
    """
    planes = [
        plane for plane in ("axial", "coronal", "sagittal") if any(plane in image.planes for image in rows.values())
    ]
    tiles = [
        [_tile(image.planes[plane], oriented) if plane in image.planes else None for plane in planes]
        for image in rows.values()
    ]
    labels = [fitted_text(name, _NAME_PIXELS, 15) for name in rows]
    columns = planes if oriented else [""] * len(planes)
    footer = RADIOLOGICAL if oriented else ""
    return png_bytes(sheet(tiles, column_labels=columns, row_labels=labels, title=title, footer=footer))


def _tile(plane: np.ndarray, oriented: bool) -> Tile:
    return gray_tile(as_displayed(plane) if oriented else plane.T[::-1], 0, 255)


def _squared(tile: Tile) -> Tile:
    """Centre a tile on a black square of the largest side, which leaves room for a name."""
    margins = [divmod(LONGEST_PICTURE - length, 2) for length in tile.shape[:2]]
    return np.pad(tile, [*((half, half + odd) for half, odd in margins), (0, 0)])
