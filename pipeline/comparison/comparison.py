"""One comparison from folders to files: page, CSV and JSON, and an MLflow run of its own."""

import logging
import shutil
from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.comparison.comparability import require_comparable
from pipeline.comparison.runs import FinishedRun, Settings, load_runs
from pipeline.metrics.names import MODEL, OWN
from pipeline.runs.folder import RunFolder, json_text
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, csv_text, json_number, json_row, require_writable

if TYPE_CHECKING:
    from pipeline.comparison.table import Comparison, Direction
    from pipeline.reporting.report_page import Picture
    from pipeline.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

TABLE = "comparison_table.json"  # that MLflow shows
# Columns of a figure's difference to the best run, and the fields that they hold; empty where there is none.
DIFFERENCE_FIELDS = {"difference": "mean", "low": "low", "high": "high", "pairs": "n", "p": "p", "p_holm": "p_holm"}


def compare_folders(
    folders: Sequence[Path],
    page: Path,
    read_settings: Callable[[Path], Settings],
    paired_methods: Collection[str],
    *,
    quiet: bool = False,
    log: "Callable[[Comparison, Sequence[Path]], str] | None" = None,
) -> None:
    """Compare finished runs (see `load_runs`): print the tables, and write page, CSV and JSON beside each other.

    `log` logs the comparison and these files to MLflow, and returns a line on how to open it; by default as a run of
    its own. UserError: fewer than two runs, unfinished or incomparable ones, or an output that cannot be written.
    """
    # Refuse outputs in the way of others, and runs that cannot be compared.
    csv_path, json_path = page.with_suffix(".csv"), page.with_suffix(".json")
    record = page.with_name(f"{page.stem}_record")
    if page.suffix.lower() != ".html":
        raise UserError(f"{page}: the comparison is a page; give -o a name that ends in .html")
    run_folder = next((folder for folder in page.absolute().parents if RunFolder(folder).config.is_file()), None)
    if run_folder is not None:
        raise UserError(
            f"{page}: lies in a run's folder ({run_folder}), whose files it would overwrite; choose another -o"
        )
    if record.exists() and not RunFolder(record).metrics.is_file():
        raise UserError(f"{record}: is in the way, and no comparison's; move it, or choose another -o")
    require_writable(page, csv_path, json_path)
    runs = load_runs(folders, read_settings, paired_methods)
    require_comparable(runs)
    from pipeline.tracking.mlflow_settings import configure_mlflow

    configure_mlflow()  # first, for MONAI imports MLflow, which asks for its settings then
    from pipeline.comparison.comparison_page import render, terminal_text
    from pipeline.comparison.table import compare

    # Compare, write the files, and log them.
    comparison = compare(runs)
    logger.info(f"{terminal_text(comparison)}\n")
    save(comparison, csv_path, json_path)
    atomic_text(page, render(comparison, _picture(runs, quiet)))
    log = log or partial(log_comparison, name=page.stem, folder=record)
    how_to_open = log(comparison, [page, csv_path, json_path])
    logger.info(f"  comparison  {page}   (open it in a browser)")
    logger.info(f"  figures     {csv_path}, {json_path}")
    logger.info(f"  MLflow      {how_to_open}")


def _picture(runs: Sequence[FinishedRun], quiet: bool) -> "Picture | None":
    """Draw the figure; if the data is missing, warn and return None."""
    from pipeline.comparison.figure import CAPTION, draw_slices
    from pipeline.reporting.report_page import Picture
    from pipeline.reporting.tiles import png_bytes

    try:
        sheet = draw_slices(runs, quiet)
    except UserError as error:
        logger.warning(f"{error}; the comparison is without its figure")
        return None
    return Picture(png_bytes(sheet), "the same slices: input, each method, real target", CAPTION)


def save(comparison: "Comparison", csv_path: Path, json_path: Path) -> None:
    """Write every figure of the tables, in full precision, as CSV (one line per figure) and as JSON."""
    rows = [row for direction in comparison.directions for row in _csv_rows(direction)]
    content = {
        "protocol": comparison.runs[0].protocols[OWN],
        "reference": {"_to_".join(direction.contrasts): direction.best.label for direction in comparison.directions},
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
        "figures": [json_row(row) for row in rows],
    }
    atomic_text(csv_path, csv_text(rows))
    atomic_text(json_path, json_text(content))


def _csv_rows(direction: "Direction") -> list[dict[str, Any]]:
    """Return one row per figure: what was measured, the figure, its difference to the best run, and the run's costs."""
    from pipeline.comparison.table import metric_of, region_of

    rows = []
    for row in direction.rows:
        record = row.run.record if row.run else {}
        for column in (column for column in (*direction.columns, *direction.region_columns) if column in row.values):
            value, difference = row.values[column], row.differences.get(column)
            rows.append(
                {
                    "source": direction.contrasts[0],
                    "target": direction.contrasts[1],
                    "label": row.label,
                    "kind": row.kind,
                    "method": row.run.method if row.run else "",
                    "protocol": OWN,
                    "unit": "volume",
                    "region": region_of(column),
                    "metric": metric_of(column),
                    "mean": value.mean,
                    "sd": value.sd,
                    "n": value.n,
                    "reference": direction.best.label,
                    **{name: getattr(difference, field, None) for name, field in DIFFERENCE_FIELDS.items()},
                    "seconds_per_step": record.get("seconds_per_step"),
                    "translator_parameters": record.get("translator_parameters"),
                    "parameters": row.run.all_parameters if row.run else None,
                }
            )
    return rows


# ── MLflow ──────────────────────────────────────────────────────────────────────────────────────────────────


def log_comparison(comparison: "Comparison", files: Sequence[Path], *, name: str, folder: Path) -> str:
    """Log the comparison as an MLflow run in the compared runs' experiment, and return a line on how to open it.

    The record's folder is removed once MLflow has everything.
    """
    from pipeline.comparison.comparison_page import markdown
    from pipeline.tracking.tracker import Tracker

    runs = comparison.runs
    if not any(run.settings["tracking"]["mlflow"] for run in runs):
        return "off, as in the compared runs"
    tracker = Tracker(
        folder,
        experiment=runs[0].settings["tracking"]["experiment"],
        run_name=name,
        params={"runs": {run.label: str(run.folder) for run in runs}},
        tags={"kind": "comparison", "data": runs[0].settings["data"]["source"]},
        machine=False,
    )
    with tracker:
        log_figures(tracker, comparison, files)
        tracker.set_description(markdown(comparison))
        # This call is the last of the queue: its success means that everything is logged.
        logged = tracker.call("the comparison", lambda run: run.id) is not None
        how_to_open = tracker.open_instructions()
    if logged:
        shutil.rmtree(folder, ignore_errors=True)
    return how_to_open


def log_figures(tracker: "Tracker", comparison: "Comparison", files: Sequence[Path]) -> None:
    """Log a comparison's figures, files and table to an MLflow run; tags name the compared runs and the best."""
    ids = {run.label: run.mlflow_id or str(run.folder) for run in comparison.runs}
    tags = {"compared_runs": ",".join(ids.values()), **{f"compared.{label}": run_id for label, run_id in ids.items()}}
    tags |= {f"best.{'_to_'.join(direction.contrasts)}": direction.best.label for direction in comparison.directions}
    tracker.set_tags(tags)
    tracker.log_metrics(metrics(comparison), 0)
    tracker.log_table(TABLE, *_table(comparison))
    for path in files:
        tracker.log_artifact(path)


def _table(comparison: "Comparison") -> tuple[list[str], list[list[str | float | None]]]:
    """Return columns and rows of the means, a row a direction and method or baseline, in MLflow's order.

    See `pipeline.evaluation.front_page.subject_table`.
    """
    from pipeline.comparison.comparison_page import heading, kind_text

    columns = list(dict.fromkeys(column for direction in comparison.directions for column in direction.columns))
    rows: list[list[str | float | None]] = [
        [
            f"{' → '.join(direction.contrasts)}, {row.label}",
            *(json_number(round(row.values[column].mean, 4)) if column in row.values else None for column in columns),
            *(" → ".join(direction.contrasts), row.label, kind_text(row)),
        ]
        for direction in comparison.directions
        for row in direction.rows
    ]
    return ["row", *map(heading, columns), "direction", "run", "method"], rows


def metrics(comparison: "Comparison") -> dict[str, float]:
    """Return the tables' means under the runs' own metric names ("test/T1_to_T2/model/own/volume_foreground_psnr").

    Those of the best run of each direction stand under "model", as MLflow's page for comparing runs expects, those of
    every run under its label besides, and those of the baselines.
    """
    from pipeline.comparison.table import metric_of, region_of
    from pipeline.evaluation.scores import SummaryRow, metric_name

    means = {}
    for direction in comparison.directions:
        for row in direction.rows:
            for column in (column for column in direction.columns if column in row.values):
                value = row.values[column]
                if not isfinite(value.mean):
                    continue
                names = (*direction.contrasts, row.label, OWN, "volume", region_of(column), metric_of(column))
                figure = SummaryRow(*names, value.mean, value.sd, value.n)
                means[metric_name(figure)] = value.mean
                if row.label == direction.best.label:
                    means[metric_name(figure, MODEL)] = value.mean
    return means
