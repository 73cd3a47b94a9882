"""The comparison as an MLflow run of its own, in the experiment of the compared runs."""

import shutil
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from pipeline.comparison.runs import FinishedRun
from pipeline.comparison.table import Comparison
from pipeline.evaluation.scores import SummaryRow, metric_name
from pipeline.metrics.names import MODEL, OWN
from pipeline.tracking.tracker import Tracker


def log_comparison(comparison: Comparison, name: str, files: Sequence[Path], folder: Path) -> str:
    """Log the comparison to the runs' experiment, and return a line on how to open it.

    Metrics have the names of the runs' own metrics: those of the best run of each direction under "model", as MLflow's
    page for comparing runs expects, those of every run under its label, and those of the baselines. Tags name the
    compared runs. A server that does not answer delays this by seconds only.

    Args:
        comparison: The comparison to log.
        name: Name of the MLflow run.
        files: Artifacts of the MLflow run.
        folder: Folder for the record; it is removed once MLflow has everything.
    """
    runs = comparison.runs
    if not any(run.config.tracking.mlflow for run in runs):
        return "off, as in the compared runs"
    tracker = Tracker(
        folder,
        experiment=runs[0].config.tracking.experiment,
        run_name=name,
        params={"runs": {run.label: str(run.folder) for run in runs}},
        tags=_tags(comparison),
    )
    with tracker:
        tracker.log_metrics(metrics(comparison), 0)
        for path in files:
            tracker.log_artifact(path)
        # This call is the last of the queue: its success means that everything is logged.
        logged = tracker.call("the comparison", lambda run: run.id) is not None
        how_to_open = tracker.open_instructions()
    if logged:
        shutil.rmtree(folder, ignore_errors=True)
    return how_to_open


def metrics(comparison: Comparison) -> dict[str, float]:
    """Return the tables' means by metric name, such as "test/T1_to_T2/model/own/volume_foreground_psnr"."""
    means = {}
    for direction in comparison.directions:
        for row in direction.rows:
            for column in direction.columns:
                value = row.values.get(column)
                if value is None or not isfinite(value.mean):
                    continue
                region, _, metric = column.partition("/")
                figure = SummaryRow(*direction.contrasts, row.label, OWN, "volume", region, metric, *_mean_sd_n(value))
                means[metric_name(figure)] = value.mean
                if row.label == direction.reference:
                    means[metric_name(figure, MODEL)] = value.mean
    return means


def _mean_sd_n(value) -> tuple[float, float, int]:
    return value.mean, value.sd, value.n


def _tags(comparison: Comparison) -> dict[str, str]:
    """Return tags that name the compared runs by their MLflow ids, or their folders where they have none."""
    runs: Sequence[FinishedRun] = comparison.runs
    return {
        "kind": "comparison",
        "data": runs[0].config.data.source,
        "compared_runs": ",".join(run.mlflow_id or str(run.folder) for run in runs),
        **{f"compared.{run.label}": run.mlflow_id or str(run.folder) for run in runs},
        **{f"best.{'_to_'.join(direction.contrasts)}": direction.reference for direction in comparison.directions},
    }
