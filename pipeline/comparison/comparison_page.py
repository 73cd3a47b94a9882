"""A comparison as tables in the terminal, and as compare.html: one self-contained file in the style of a report."""

import platform
import shlex
from collections.abc import Sequence
from math import isfinite, isnan
from pathlib import Path

from pipeline import __version__
from pipeline.comparison.runs import FinishedRun
from pipeline.comparison.table import BASELINE, Comparison, Difference, Direction, Row, metric_of, region_of
from pipeline.data.sources.listing import natural_key
from pipeline.metrics import names
from pipeline.metrics.names import OWN
from pipeline.metrics.protocols import Summary
from pipeline.reporting.report_page import PHANTOM_FLAG, PHANTOM_NOTE, Picture, Report, page_environment
from pipeline.utils.console import table

NONE = "—"
TERMINAL_COLUMNS = 6
FOOTNOTE = "Whole test volumes inside the head, our own protocol, data range 2; mean ± SD over subjects."
CALIBRATED = "calibrated_psnr"  # on the page alone, beside PSNR
SIGNIFICANT = 0.05
STATISTICS = (
    "The best run is that with the highest mean PSNR inside the head among those that did not train on pairs. Each "
    "cell: the mean over subjects of a method's figure less that of the best run, its 95 % bootstrap interval "
    "(percentile, 10,000 draws of subjects, one seed), and the p of a two-sided Wilcoxon signed-rank test on the same "
    "pairs, corrected by Holm's method for all methods and baselines of the same direction and metric. Metrics and "
    "directions are not corrected for each other. The best run was found on these same subjects, so with many methods "
    "the p-values flatter it; and one training, from one seed, says nothing of how much a method varies."
)


def terminal_text(comparison: Comparison) -> str:
    """Return one table per direction: figures, and the difference in PSNR to the best run."""
    paragraphs = [
        f"{_heading(direction)}\n{table(*_direction_table(direction))}" for direction in comparison.directions
    ]
    return "\n\n".join([*paragraphs, FOOTNOTE, *(f"note: {note}" for note in comparison.notes)])


def markdown(comparison: Comparison) -> str:
    """Return the same tables as Markdown, after a sentence on the best runs, for a description in MLflow."""
    parts = [result_sentence(comparison)]
    for direction in comparison.directions:
        header, body = _direction_table(direction)
        lines = [[_heading(direction), *header[1:]], ["---"] * len(header)]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in (*lines, *body)))
    parts.append(FOOTNOTE)
    return "\n\n".join([*parts, *(f"Note: {note}" for note in comparison.notes)])


def _heading(direction: Direction) -> str:
    return f"{' → '.join(direction.contrasts)}, {count_text(direction)}"


def _direction_table(direction: Direction) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a direction's table, as text."""
    columns = [column for column in direction.columns if metric_of(column) != CALIBRATED][:TERMINAL_COLUMNS]
    headings = [_column_title(column) for column in columns]
    body = []
    for row in direction.rows:
        mean, low, high, p = difference_texts(columns[0], row.differences.get(columns[0]))
        difference = "best" if row.label == direction.best.label else f"{mean} [{low}, {high}]" if low else mean
        figures = [value_text(column, row.values.get(column)) for column in columns]
        body.append([row.title, kind_text(row), *figures, difference, p, *cost_texts(row.run)[:2]])
    return ["", "method", *headings, "Δ to best [95 % CI]", "p (Holm)", "s/step", "parameters"], body


def render(comparison: Comparison, picture: Picture | None) -> str:
    """Return the page as HTML; raises `UserError` as `pipeline.reporting.report_page.write_report` does."""
    # What the page shares with a run's report.
    runs = comparison.runs
    is_phantom = runs[0].settings["data"]["source"] == "phantom"
    folders = shlex.join(str(run.folder) for run in runs)
    report = Report(
        title=f"Comparison of {len(runs)} runs",
        result=result_sentence(comparison),
        warnings=[*([PHANTOM_NOTE] if is_phantom else []), *comparison.notes],
        provenance={"version": __version__, "python": platform.python_version()},
        next_commands={
            "repeat this comparison": f"python -m pipeline.compare {folders}",
            "look at the runs' curves together": "mlflow ui",
        },
    )

    # The comparison's own tables.
    template = page_environment(Path(__file__).parent).get_template("compare.html.jinja")
    return template.render(
        report=report,
        directions=comparison.directions,
        functions={
            function.__name__.removeprefix("_"): function
            for function in (
                _column_title,
                _difference_title,
                _region_titles,
                _region_cells,
                _style,
                _difference_cells,
                value_text,
                count_text,
                kind_text,
                cost_texts,
            )
        },
        eligible="" if all(run.saw_pairs for run in runs) else "among methods that no pairs taught",
        flag=PHANTOM_FLAG if is_phantom else "",
        protocol=runs[0].protocols[OWN],
        about_statistics=STATISTICS,
        picture=picture,
        labels=[run.label for run in runs],
        run_header=["run", "method", "folder", "steps", "batch", "trained on", "MLflow run"],
        run_rows=[_run_cells(run) for run in runs],
        settings=comparison.settings,
    )


def result_sentence(comparison: Comparison) -> str:
    """Return a sentence that names the run with the best PSNR in each direction."""
    best_runs = [
        f"{' → '.join(direction.contrasts)} {direction.best.label} "
        f"({direction.best.values[direction.columns[0]].mean:.2f} dB)"
        for direction in comparison.directions
    ]
    return f"Best masked PSNR of whole test volumes (our protocol, data range 2): {'; '.join(best_runs)}."


def _region_cells(direction: Direction) -> list[tuple[str, str, str, list[str]]]:
    """Return region, method, style and figures of each row of the table of regions, the regions in counting order."""
    regions = dict.fromkeys(region_of(column) for column in direction.region_columns)
    metrics = list(dict.fromkeys(metric_of(column) for column in direction.region_columns))
    return [
        (region, row.title, _style(row, direction), [
            value_text(column, row.values.get(column)) for column in (f"{region}/{metric}" for metric in metrics)
        ])
        for region in sorted(regions, key=natural_key)
        for row in direction.rows
    ]  # fmt: skip


def _region_titles(direction: Direction) -> list[str]:
    return list(dict.fromkeys(_column_title(column) for column in direction.region_columns))


def _column_title(column: str) -> str:
    return f"{heading(column)} {names.arrow(metric_of(column))}"


def _difference_title(column: str) -> str:
    return f"|{heading(column)} - 1|" if names.one_is_best(metric_of(column)) else heading(column)


def _style(row: Row, direction: Direction) -> str:
    return "reference" if row.label == direction.best.label else "baseline" if row.kind == BASELINE else ""


def _difference_cells(column: str, difference: Difference | None) -> tuple[str, str, str, str]:
    """Return mean, interval, p and "better", "worse" or "" of a difference."""
    mean, low, high, p = difference_texts(column, difference)
    verdict = ""
    if difference and difference.p_holm is not None and difference.p_holm < SIGNIFICANT:
        verdict = "better" if (difference.mean > 0) == names.higher_is_better(metric_of(column)) else "worse"
    return mean, f"{low} to {high}" if low else "", p, verdict


def _run_cells(run: FinishedRun) -> Sequence[str]:
    return [
        run.label,
        f"{run.method}, paired bound" if run.is_bound else run.method,
        str(run.folder),
        f"{run.record['steps']:,}" if "steps" in run.record else NONE,
        str(run.settings["training"]["batch_size"]),
        run.hardware or NONE,
        run.mlflow_id or NONE,
    ]


# ── figures as text ─────────────────────────────────────────────────────────────────────────────────────────


def heading(column: str) -> str:
    """Return the heading of a column "region/metric"."""
    return names.HEADINGS.get(metric_of(column), metric_of(column).replace("_", " "))


def value_text(column: str, value: Summary | None) -> str:
    """Return a figure as "mean ± SD"."""
    return NONE if value is None else names.mean_and_sd(metric_of(column), value.mean, value.sd)


def difference_texts(column: str, difference: Difference | None) -> tuple[str, str, str, str]:
    """Return mean, both ends of the interval ("" for none) and the corrected p of a difference."""
    if difference is None or isnan(difference.mean):
        return NONE, "", "", NONE
    decimals = names.digits(metric_of(column))
    mean, low, high = (f"{value:+.{decimals}f}" for value in (difference.mean, difference.low, difference.high))
    has_interval = isfinite(difference.low)
    return mean, low if has_interval else "", high if has_interval else "", p_text(difference.p_holm)


def p_text(p: float | None) -> str:
    """Return a p-value as text."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def count_text(direction: Direction) -> str:
    """Return the number of subjects behind a direction's figures: "4 subjects", or "3 to 4 subjects"."""
    counts = {row.values[column].n for row in direction.rows for column in direction.columns if column in row.values}
    numbers = " to ".join(str(number) for number in dict.fromkeys([min(counts), max(counts)]))
    return f"{numbers} subject{'' if numbers == '1' else 's'}"


def kind_text(row: Row) -> str:
    """Return the kind of a row: a run's method, "paired bound", its number of pairs, or "baseline"."""
    if row.run is None:
        return "baseline, fitted on pairs" if row.used_pairs else "baseline"
    pairs = len(row.run.split["pairs"])
    if row.run.is_bound or not pairs:
        return f"{row.run.method}, {row.kind}" if row.run.is_bound else row.run.method
    return f"{row.run.method}, with {pairs} pair{'s' * (pairs > 1)}"


def cost_texts(run: FinishedRun | None) -> tuple[str, str, str]:
    """Return a run's seconds of a step, its translating networks' weights, and those of all networks ("" for none)."""
    if run is None:
        return NONE, NONE, ""
    seconds = run.record.get("seconds_per_step")
    all_parameters = parameters_text(run.all_parameters) if run.all_parameters else ""
    translators = parameters_text(run.record.get("translator_parameters"))
    return NONE if seconds is None else f"{seconds:#.3g}", translators, all_parameters


def parameters_text(count: int | None) -> str:
    """Return a number of weights in thousands or millions."""
    if count is None:
        return NONE
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"
