"""A tracked run for tests: what it logs, and what the store and the file have of it."""

import time

import numpy as np
import pytest

from pipeline.tracking.metrics_file import read_metrics
from pipeline.tracking.tracker import Tracker

SETTINGS = {"training": {"epochs": 3, "beta1": 0.5}, "contrasts": ["T1", "T2*"], "note": "x" * 7000}


def track(folder, **options):
    """Open a record in the folder's run."""
    options = {"experiment": "e", "run_name": "r", "params": SETTINGS, **options}
    return Tracker(folder / "run", **options)


NOBODY = "http://127.0.0.1:9"  # the discard port, at which nothing answers


def unfollowed(folder, steps=range(2), **options):
    """Log a run while no server answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", NOBODY)
        with track(folder, **options) as tracker:
            train(tracker, steps)


def client(uri):
    """MLflow's client of a store."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


def history(uri, run_id, key):
    """The (step, value) points of a metric."""
    return [(metric.step, metric.value) for metric in client(uri).get_metric_history(run_id, key)]


def images(uri, run_id):
    """The steps of a run's pictures."""
    return sorted(
        int(file.path.split("+")[2])
        for file in client(uri).list_artifacts(run_id, "images")
        if file.path.endswith(".png")
    )


def lines(folder):
    """The records of the run's metrics.jsonl."""
    return read_metrics(folder / "run" / "metrics.jsonl")[0]


def train(tracker, steps):
    """Log what a training would, at the given steps."""
    for step in steps:
        tracker.log_metrics({"loss": step * 2}, step)
        if step % 5 == 0:
            tracker.log_image("samples", np.zeros((4, 4, 3)), step)
    tracker.log_dataset("T1", "train", "data", ["a"])


def eventually(condition):
    """Wait until something is so."""
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
