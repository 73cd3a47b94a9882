"""A comparison as text for the terminal, as compare.csv and as compare.json."""

import csv
import io
import json
from collections.abc import Iterator
from math import isfinite, isnan
from pathlib import Path

from pipeline.comparison.columns import arrow, digits, heading
from pipeline.comparison.statistics import Difference
from pipeline.comparison.table import Comparison, Direction, Row, Value
from pipeline.metrics.names import OWN
from pipeline.utils.console import table
from pipeline.utils.files import atomic_text

NONE = "—"


def value_text(column: str, value: Value | None) -> str:
    """Return a figure as "mean ± SD"."""
    if value is None or isnan(value.mean):
        return NONE
    spread = f" ± {value.sd:.{digits(column)}f}" if isfinite(value.sd) else ""
    return f"{value.mean:.{digits(column)}f}{spread}"


def p_text(p: float | None) -> str:
    """Return a p-value as text."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def count_text(direction: Direction) -> str:
    """Return the number of subjects behind a direction's figures: "4 subjects", or "3 to 4 subjects"."""
    counts = {value.n for row in direction.rows for value in row.values.values()}
    numbers = " to ".join(str(number) for number in dict.fromkeys([min(counts), max(counts)]))
    return f"{numbers} subject{'' if numbers == '1' else 's'}"


def seconds_text(row: Row) -> str:
    """Return the seconds of a training step."""
    seconds = row.run.seconds_per_step if row.run else None
    return NONE if seconds is None else f"{seconds:#.3g}"


def parameters_text(count: int | None) -> str:
    """Return a number of weights in thousands or millions."""
    if count is None:
        return NONE
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"


def kind_text(row: Row) -> str:
    """Return the kind of a row: a run's method, "paired bound", or "baseline"."""
    if row.run is None:
        return "baseline, fitted on pairs" if row.used_pairs else "baseline"
    return f"{row.method}, {row.kind}" if row.used_pairs else row.method


def terminal_text(comparison: Comparison) -> str:
    """Return one table per direction: figures, and the difference in PSNR to the best run."""
    paragraphs = [_terminal_table(direction) for direction in comparison.directions]
    paragraphs.append("Whole test volumes inside the head, our own protocol, data range 2; mean ± SD over subjects.")
    return "\n\n".join([*paragraphs, *(f"note: {note}" for note in comparison.notes)])


def _terminal_table(direction: Direction) -> str:
    columns = direction.columns[:6]
    psnr_column = columns[0]
    body = []
    for row in direction.rows:
        difference = row.differences.get(psnr_column)
        body.append(
            [
                row.label,
                kind_text(row),
                *(value_text(column, row.values.get(column)) for column in columns),
                "best" if row.label == direction.reference else interval_text(psnr_column, difference),
                NONE if difference is None else p_text(difference.p_holm),
                seconds_text(row),
                parameters_text(row.run.translator_parameters if row.run else None),
            ]
        )
    column_titles = [f"{heading(column)} {arrow(column)}" for column in columns]
    headings = ["", "method", *column_titles, "Δ to best [95 % CI]", "p (Holm)", "s/step", "parameters"]
    return f"{' → '.join(direction.contrasts)}, {count_text(direction)}\n{table(headings, body)}"


def interval_text(column: str, difference: Difference | None) -> str:
    """Return a difference as "+1.20 [+0.90, +1.50]"."""
    if difference is None or isnan(difference.mean):
        return NONE
    decimals = digits(column)
    interval = f" [{difference.low:+.{decimals}f}, {difference.high:+.{decimals}f}]" if isfinite(difference.low) else ""
    return f"{difference.mean:+.{decimals}f}{interval}"


def save(comparison: Comparison, csv_path: Path, json_path: Path) -> None:
    """Write every figure of the tables, in full precision, as CSV (one line per figure) and as JSON."""
    rows = [row for direction in comparison.directions for row in _csv_rows(direction)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_text(csv_path, stream.getvalue())
    content = {
        "protocol": comparison.runs[0].protocols[OWN],
        "reference": {"_to_".join(direction.contrasts): direction.reference for direction in comparison.directions},
        "runs": [
            {
                "label": run.label,
                "folder": str(run.folder),
                "method": run.method,
                "paired_bound": run.is_bound,
                "mlflow_run_id": run.mlflow_id,
                **run.record,
            }
            for run in comparison.runs
        ],
        "settings": dict(comparison.settings),
        "notes": comparison.notes,
        "figures": [{key: _json_value(value) for key, value in row.items()} for row in rows],
    }
    atomic_text(json_path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _csv_rows(direction: Direction) -> Iterator[dict]:
    """Yield one row per figure: what was measured, the figure, its difference to the best run, and costs of the run."""
    for row in direction.rows:
        for column in direction.columns:
            value = row.values.get(column)
            if value is None:
                continue
            region, _, metric = column.partition("/")
            difference = row.differences.get(column)
            yield {
                "source": direction.contrasts[0],
                "target": direction.contrasts[1],
                "label": row.label,
                "kind": row.kind,
                "method": row.method,
                "protocol": OWN,
                "unit": "volume",
                "region": region,
                "metric": metric,
                "mean": value.mean,
                "sd": value.sd,
                "n": value.n,
                "reference": direction.reference,
                "difference": difference.mean if difference else None,
                "low": difference.low if difference else None,
                "high": difference.high if difference else None,
                "pairs": difference.n if difference else None,
                "p": difference.p if difference else None,
                "p_holm": difference.p_holm if difference else None,
                "seconds_per_step": row.run.seconds_per_step if row.run else None,
                "translator_parameters": row.run.translator_parameters if row.run else None,
                "parameters": row.run.all_parameters if row.run else None,
            }


def _json_value(value: object) -> object:
    """Return a value in JSON's types: NaN, which JSON lacks, as null and infinity as text."""
    if not isinstance(value, float) or isfinite(value):
        return value
    return None if isnan(value) else str(value)
