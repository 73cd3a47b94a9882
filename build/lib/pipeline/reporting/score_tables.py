"""Score tables of a report: figures as text, and whether the model is better than the baselines."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite, isnan

from pipeline.metrics.names import HEADINGS, arrow, badness, digits

Value = tuple[float, float, int]  # mean, standard deviation, number of subjects (or slices)


@dataclass(frozen=True)
class ScoreTable:
    """Scores of all methods in one direction under one protocol.

    Attributes:
        direction: Direction, such as "T1 → T2".
        protocol: Protocol in a few words, such as "volume, inside the head".
        description: One sentence on normalisation, data range and what the ± is; "" for none.
        rows: Method -> metric -> (mean, SD, number). "psnr", "ssim", "nmi" and Dice are better when higher,
            "slice_ratio" the closer to 1, all others when lower.
        model: Name of the trained model among the methods; the others are baselines.
        trained_on_pairs: The baselines that were fitted on both contrasts of a subject. They are shown, but a model
            without pairs is not compared with them.
    """

    direction: str
    protocol: str
    description: str
    rows: Mapping[str, Mapping[str, Value]]
    model: str
    trained_on_pairs: Collection[str] = ()


@dataclass(frozen=True)
class Cell:
    """One figure as text; `verdict` is "better" or "worse" than `best_baseline`, or "" if they are not compared."""

    text: str
    verdict: str = ""


@dataclass(frozen=True)
class Row:
    """One method's figures."""

    method: str
    is_model: bool
    cells: list[Cell]


@dataclass(frozen=True)
class FormattedTable:
    """A table ready for the page: `columns` are (name, "↑", "↓" or "→ 1" for better values)."""

    direction: str
    protocol: str
    description: str
    count: str
    columns: list[tuple[str, str]]
    rows: list[Row]


def format_table(table: ScoreTable) -> FormattedTable:
    """Return a table's figures as text; those of the model are compared with the best baseline of each metric."""
    metrics = list(dict.fromkeys(metric for scores in table.rows.values() for metric in scores))
    rows = [
        Row(method, method == table.model, [_cell(table, method, metric) for metric in metrics])
        for method in table.rows
    ]
    counts = sorted({value[2] for scores in table.rows.values() for value in scores.values()})
    count = "n = " + " to ".join(str(number) for number in dict.fromkeys([counts[0], counts[-1]])) if counts else ""
    columns = [(HEADINGS.get(metric, metric), arrow(metric)) for metric in metrics]
    return FormattedTable(table.direction, table.protocol, table.description, count, columns, rows)


def best_baseline(table: ScoreTable, metric: str) -> tuple[str, float] | None:
    """Return the baseline without pairs that has the best mean of a metric, and that mean; None if there is none."""
    means = {
        method: scores[metric][0]
        for method, scores in table.rows.items()
        if method not in (table.model, *table.trained_on_pairs) and metric in scores and not isnan(scores[metric][0])
    }
    if not means:
        return None
    method = min(means, key=lambda name: badness(metric, means[name]))
    return method, means[method]


def _cell(table: ScoreTable, method: str, metric: str) -> Cell:
    if metric not in table.rows[method] or isnan(table.rows[method][metric][0]):
        return Cell("—")
    mean, deviation, _ = table.rows[method][metric]
    decimals = digits(metric)
    text = f"{mean:.{decimals}f}" + (f" ± {deviation:.{decimals}f}" if isfinite(deviation) else "")
    baseline = best_baseline(table, metric)
    if method != table.model or baseline is None:
        return Cell(text)
    model_badness, baseline_badness = badness(metric, mean), badness(metric, baseline[1])
    return Cell(
        text, "" if model_badness == baseline_badness else "better" if model_badness < baseline_badness else "worse"
    )
