"""Picture of an uncertainty: calibration curves, and a slice's observed error beside the expected one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.utils.files import atomic_write

_COLOUR = "#2a6fbb"


@dataclass(frozen=True)
class Example:
    """A slice of a test subject; arrays are (H, W), intensities in [-1, 1], errors from 0, and 0 outside the head."""

    title: str
    source: np.ndarray
    translated: np.ndarray
    real: np.ndarray
    observed: np.ndarray
    expected: np.ndarray
    spacing_mm: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Reliability:
    """Calibration of one direction: (subjects, bins, 2) mean expected and observed errors, and an example."""

    direction: str
    curves: np.ndarray
    example: Example


def save_reliability(directions: Sequence[Reliability], path: Path) -> None:
    """Draw one row per direction into a PNG on white, written atomically.

    Points of the curve are means over subjects in equally filled bins, bars their SD; on the dashed line, expected and
    observed errors agree. Both error maps share a colour scale.

    Raises:
        UserError: The file cannot be written.
    """
    figure = Figure(figsize=(15, 3.4 * len(directions)), dpi=110, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for row, reliability in enumerate(directions):
        axes = [figure.add_subplot(len(directions), 6, 6 * row + column + 1) for column in range(6)]
        _draw_curve(axes[0], reliability)
        _draw_example(figure, axes[1:], reliability.example)
    atomic_write(path, lambda stream: canvas.print_png(stream))


def _draw_curve(axes, reliability: Reliability) -> None:
    expected, observed = reliability.curves.mean(axis=0).T
    spread = reliability.curves[:, :, 1].std(axis=0, ddof=1) if len(reliability.curves) > 1 else None
    top = 1.1 * max(expected.max(), observed.max(), 1e-6)
    axes.plot([0, top], [0, top], color="#888888", linestyle="--", linewidth=1)
    axes.errorbar(expected, observed, yerr=spread, color=_COLOUR, marker="o", markersize=4, linewidth=1.5)
    axes.set(xlim=(0, top), ylim=(0, None), xlabel="expected |error|", ylabel="observed |error|")
    axes.set_title(
        _plain(f"{reliability.direction}, n = {len(reliability.curves)}"), fontsize=11, loc="left", fontweight="bold"
    )
    axes.spines[["top", "right"]].set_visible(False)


def _draw_example(figure: Figure, axes: Sequence, example: Example) -> None:
    top = max(float(np.percentile(example.observed, 99)), float(example.expected.max()), 1e-6)
    height, width = example.spacing_mm
    panels = (
        (_plain(example.title), example.source, {"cmap": "gray", "vmin": -1, "vmax": 1}),
        ("translated", example.translated, {"cmap": "gray", "vmin": -1, "vmax": 1}),
        ("real", example.real, {"cmap": "gray", "vmin": -1, "vmax": 1}),
        ("observed |error|", example.observed, {"cmap": "inferno", "vmin": 0, "vmax": top}),
        ("expected |error|", example.expected, {"cmap": "inferno", "vmin": 0, "vmax": top}),
    )
    for axis, (title, image, style) in zip(axes, panels, strict=True):
        upright = image.T[::-1, ::-1]  # front or top up, patient's left on the picture's right
        colour_image = axis.imshow(upright, aspect=width / height, **style)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.colorbar(colour_image, ax=axes[-1], shrink=0.8)


def _plain(label: str) -> str:
    """Escape dollar signs, between which matplotlib would read a formula."""
    return label.replace("$", r"\$")
