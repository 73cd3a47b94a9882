"""Charts of a run: losses and validation scores from its metrics.jsonl, and the uncertainty's calibration."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from scipy.signal import lfilter

from pipeline.metrics.names import HEADINGS
from pipeline.reporting.tiles import as_displayed
from pipeline.tracking.metrics_file import read_metrics
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write

Series = dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> its steps and values, in order of step

_COLOURS = ("#2a6fbb", "#d9722e", "#3a9160", "#8a5bb5")
_COLUMNS = 4


def save_curves(metrics_path: Path, picture_path: Path, *, steps_per_epoch: int) -> None:
    """Draw every curve of a metrics.jsonl into a PNG on white, written atomically.

    Metrics are "train/<loss>_<network or contrast>", "train/learning_rate" (or "…_factor"), "validation/<score>" and
    "validation/<direction>/<score>". Each kind of loss and each score has its own axes, with a line per network,
    contrast or direction. Losses are smoothed, with the raw values behind. The horizontal axis shows epochs.
    UserError: the file cannot be read or holds no metric yet.
    """
    series = read_series(metrics_path)
    groups = grouped(series)
    if not groups:
        raise UserError(f"{metrics_path}: no metrics in it; train before drawing curves")
    rows = -(-len(groups) // _COLUMNS)
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14)  # inches
    figure = Figure(figsize=(15, 3.3 * rows), dpi=110, layout=layout, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for number, (title, lines) in enumerate(groups.items()):
        axes = figure.add_subplot(rows, _COLUMNS, number + 1)
        _draw(axes, _escaped(title), {_escaped(label): series[name] for label, name in lines.items()}, steps_per_epoch)
    atomic_write(picture_path, lambda stream: canvas.print_png(stream))


def read_series(metrics_path: Path) -> Series:
    """Return each metric's steps and finite values from a metrics.jsonl; of a step written twice, the later value.

    UserError: the file cannot be read.
    """
    try:
        records, _ = read_metrics(metrics_path)
    except OSError as error:
        raise UserError(f"{metrics_path}: cannot be read ({error.strerror}); was the run trained here?") from error
    values_by_metric: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in record.items():
            if name not in ("step", "time") and np.isfinite(value):
                values_by_metric.setdefault(name, {})[int(record["step"])] = value
    return {
        name: (np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for name, values in values_by_metric.items()
    }


def grouped(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Group metrics by axes: title -> label of the line -> name of the metric; losses, then scores, then rate."""
    losses: dict[str, dict[str, str]] = {}
    scores: dict[str, dict[str, str]] = {}
    rate: dict[str, dict[str, str]] = {}
    for name in names:
        family, _, series_name = name.partition("/")
        if series_name.startswith("learning_rate"):
            rate[series_name.replace("_", " ")] = {"": name}
        elif family == "train":
            kind, _, label = series_name.partition("_")
            losses.setdefault(f"{kind} loss", {})[label] = name
        elif family == "validation":
            direction, _, score = series_name.rpartition("/")
            scores.setdefault(f"validation {HEADINGS.get(score, score)}", {})[direction.replace("_to_", " → ")] = name
    return {**losses, **scores, **rate}


def smoothed(values: np.ndarray, width: float) -> np.ndarray:
    """Return the exponential moving average over about `width` values, unbiased at its start (Adam's correction)."""
    keep = 1 - 1 / max(1.0, width)
    filtered = lfilter([1 - keep], [1, -keep], values)
    return filtered / (1 - keep ** np.arange(1, len(values) + 1))


def _escaped(label: str) -> str:
    """Escape dollar signs, between which matplotlib would read a formula."""
    return label.replace("$", r"\$")


def _draw(axes: Axes, title: str, lines: Series, steps_per_epoch: int) -> None:
    """Draw lines into axes; losses are smoothed, with their raw values behind."""
    # Draw each line.
    is_loss = title.endswith(" loss")
    heights = []
    for number, (label, (steps, values)) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        positions = steps / steps_per_epoch
        if is_loss:
            smooth = smoothed(values, len(values) / 40)
            axes.plot(positions, values, color=colour, alpha=0.22, linewidth=0.7)
            axes.plot(positions, smooth, color=colour, linewidth=1.7, label=label)
            heights += [*np.percentile(values, (2, 98)), smooth.min(), smooth.max()]
        else:
            marker = "o" if len(values) <= 60 and title.startswith("validation") else None
            axes.plot(positions, values, color=colour, linewidth=1.7, marker=marker, markersize=3, label=label)

    # Format the axes.
    if is_loss:
        axes.set_ylim(*loss_limits(heights))
    axes.set_title(title, fontsize=12, loc="left", fontweight="bold")
    axes.set_xlabel("epoch", fontsize=10.5, color="#555555")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.tick_params(labelsize=10, colors="#555555", length=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")
    if any(lines):
        axes.legend(fontsize=10.5, frameon=False, loc="best")


def loss_limits(heights: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis for losses: from 0, or from below it, where a critic's may lie."""
    lowest, highest = min(0.0, *heights), max(0.0, *heights)
    margin = 0.08 * (highest - lowest)
    if lowest == highest:
        return 0.0, 1.0
    return (lowest - margin if lowest else 0.0), (highest + margin if highest else 0.0)


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
    observed errors agree. Both error maps share a colour scale. UserError: the file cannot be written.
    """
    figure = Figure(figsize=(15, 3.4 * len(directions)), dpi=110, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for row, reliability in enumerate(directions):
        axes = [figure.add_subplot(len(directions), 6, 6 * row + column + 1) for column in range(6)]
        _draw_curve(axes[0], reliability)
        _draw_example(figure, axes[1:], reliability.example)
    atomic_write(path, lambda stream: canvas.print_png(stream))


def _draw_curve(axes: Axes, reliability: Reliability) -> None:
    expected, observed = reliability.curves.mean(axis=0).T
    spread = reliability.curves[:, :, 1].std(axis=0, ddof=1) if len(reliability.curves) > 1 else None
    top = 1.1 * max(expected.max(), observed.max(), 1e-6)
    axes.plot([0, top], [0, top], color="#888888", linestyle="--", linewidth=1)
    axes.errorbar(expected, observed, yerr=spread, color=_COLOURS[0], marker="o", markersize=4, linewidth=1.5)
    axes.set(xlim=(0, top), ylim=(0, None), xlabel="expected |error|", ylabel="observed |error|")
    axes.set_title(
        _escaped(f"{reliability.direction}, n = {len(reliability.curves)}"), fontsize=11, loc="left", fontweight="bold"
    )
    axes.spines[["top", "right"]].set_visible(False)


def _draw_example(figure: Figure, axes: Sequence[Axes], example: Example) -> None:
    top = max(float(np.percentile(example.observed, 99)), float(example.expected.max()), 1e-6)
    height, width = example.spacing_mm
    panels = (
        (_escaped(example.title), example.source, ("gray", -1, 1)),
        ("translated", example.translated, ("gray", -1, 1)),
        ("real", example.real, ("gray", -1, 1)),
        ("observed |error|", example.observed, ("inferno", 0, top)),
        ("expected |error|", example.expected, ("inferno", 0, top)),
    )
    for axis, (title, image, (colours, low, high)) in zip(axes, panels, strict=True):
        colour_image = axis.imshow(as_displayed(image), colours, aspect=width / height, vmin=low, vmax=high)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.colorbar(colour_image, ax=axes[-1], shrink=0.8)
