"""compare.html: the comparison as one self-contained file, in the style of a run's report."""

import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline import __version__
from pipeline.comparison.columns import arrow, difference_heading, digits, heading, higher_is_better
from pipeline.comparison.files import NONE, count_text, kind_text, p_text, parameters_text, seconds_text, value_text
from pipeline.comparison.statistics import Difference
from pipeline.comparison.table import BASELINE, Comparison, Direction, Row, is_known
from pipeline.metrics.names import OWN
from pipeline.reporting.report_page import PHANTOM_FLAG, PHANTOM_NOTE, Highlight, Picture, Report, page_environment
from pipeline.utils.files import atomic_text

SIGNIFICANT = 0.05
STATISTICS = (
    "The best run is that with the highest mean PSNR inside the head among those that did not train on pairs. Each "
    "cell: the mean over subjects of a method's figure less that of the best run, its 95 % bootstrap interval "
    "(percentile, 10,000 draws of subjects, one seed), and the p of a two-sided Wilcoxon signed-rank test on the same "
    "pairs, corrected by Holm's method for all methods and baselines of the same direction and metric. Metrics and "
    "directions are not corrected for each other. The best run was found on these same subjects, so with many methods "
    "the p-values flatter it; and one training, from one seed, says nothing of how much a method varies."
)


def write_page(path: Path, comparison: Comparison, picture: Picture | None) -> None:
    """Write the page atomically; raises `UserError` as `pipeline.reporting.report_page.write_report` does."""
    atomic_text(path, render(comparison, picture))


def render(comparison: Comparison, picture: Picture | None) -> str:
    """Return the page as HTML."""
    # What the page shares with a run's report.
    phantom = comparison.runs[0].config.data.source == "phantom"
    report = Report(
        title=f"Comparison of {len(comparison.runs)} runs",
        result=result_sentence(comparison),
        highlights=[_highlight(direction) for direction in comparison.directions],
        warnings=[*([PHANTOM_NOTE] if phantom else []), *comparison.notes],
        provenance={"version": __version__, "python": platform.python_version()},
        next_commands={
            "repeat this comparison": "python -m pipeline.compare "
            + " ".join(shlex.quote(str(run.folder)) for run in comparison.runs),
            "look at the runs' curves together": "mlflow ui",
        },
    )

    # The comparison's own tables.
    only_bounds = all(run.is_bound for run in comparison.runs)
    template = page_environment(Path(__file__).parent).get_template("compare.html.jinja")
    return template.render(
        report=report,
        directions=[_direction_cells(direction) for direction in comparison.directions],
        eligible="" if only_bounds else "among methods that no pairs taught",
        flag=PHANTOM_FLAG if phantom else "",
        protocol=comparison.runs[0].protocols[OWN],
        about_statistics=STATISTICS,
        picture=picture,
        labels=[run.label for run in comparison.runs],
        run_header=["run", "method", "folder", "steps", "batch", "trained on", "MLflow run"],
        run_rows=_run_rows(comparison),
        settings=comparison.settings,
    )


def result_sentence(comparison: Comparison) -> str:
    """Return a sentence that names the run with the best PSNR in each direction."""
    best_runs = [
        f"{' → '.join(direction.contrasts)} {direction.reference} "
        f"({_reference(direction).values[direction.columns[0]].mean:.2f} dB)"
        for direction in comparison.directions
    ]
    return f"Best masked PSNR of whole test volumes (our protocol, data range 2): {'; '.join(best_runs)}."


def _reference(direction: Direction) -> Row:
    return next(row for row in direction.rows if row.label == direction.reference)


def _highlight(direction: Direction) -> Highlight:
    """Return the best run's PSNR, and its lead over the next best run."""
    column, best = direction.columns[0], _reference(direction)
    rivals = [row for row in direction.rows if row.run and row.label != best.label and not row.used_pairs]
    rivals = [row for row in rivals if is_known(row.values.get(column))]
    note = ""
    if rivals:
        runner_up = max(rivals, key=lambda row: row.values[column].mean)
        lead_db = best.values[column].mean - runner_up.values[column].mean
        note = f"{lead_db:+.2f} dB over {runner_up.label}"
    label = f"{' → '.join(direction.contrasts)}, masked PSNR: {best.label}"
    return Highlight(f"{best.values[column].mean:.2f} dB", label, note)


def _direction_cells(direction: Direction) -> dict:
    """Return a direction's two tables as text."""
    return {
        "title": " → ".join(direction.contrasts),
        "count": count_text(direction),
        "columns": [(heading(column), arrow(column)) for column in direction.columns],
        "difference_columns": [difference_heading(column) for column in direction.columns],
        "reference": direction.reference,
        "rows": [_row_cells(row, direction) for row in direction.rows],
    }


def _row_cells(row: Row, direction: Direction) -> dict:
    is_reference = row.label == direction.reference
    trained = row.run
    return {
        "label": row.label,
        "kind": kind_text(row),
        "style": "reference" if is_reference else "baseline" if row.kind == BASELINE else "",
        "figures": [
            (value_text(column, row.values.get(column)), direction.leaders[column] == row.label)
            for column in direction.columns
        ],
        "seconds": seconds_text(row),
        "parameters": parameters_text(trained.translator_parameters if trained else None),
        "all_parameters": parameters_text(trained.all_parameters) if trained and trained.all_parameters else "",
        "differences": []
        if is_reference
        else [_difference_cell(column, row.differences.get(column)) for column in direction.columns],
    }


def _difference_cell(column: str, difference: Difference | None) -> tuple[str, str, str, str]:
    """Return mean, interval, p and "better", "worse" or "" of a difference."""
    if difference is None or difference.n == 0:
        return NONE, "", NONE, ""
    decimals = digits(column)
    has_interval = difference.n > 1
    interval = f"{difference.low:+.{decimals}f} to {difference.high:+.{decimals}f}" if has_interval else ""
    verdict = ""
    if difference.p_holm is not None and difference.p_holm < SIGNIFICANT:
        verdict = "better" if (difference.mean > 0) == higher_is_better(column) else "worse"
    return f"{difference.mean:+.{decimals}f}", interval, p_text(difference.p_holm), verdict


def _run_rows(comparison: Comparison) -> Sequence[Sequence[str]]:
    return [
        [
            run.label,
            f"{run.method}, paired bound" if run.is_bound else run.method,
            str(run.folder),
            f"{run.record['steps']:,}" if "steps" in run.record else NONE,
            str(run.config.training.batch_size),
            run.hardware or NONE,
            run.mlflow_id or NONE,
        ]
        for run in comparison.runs
    ]
