import json
import os
import random
import time
from pathlib import Path

import mlflow_store
import numpy as np
import pytest
import torch

from pipeline import follower
from pipeline.errors import Stopped
from pipeline.metrics_file import read_metrics
from pipeline.tracking import Tracker

SETTINGS = {"training": {"epochs": 3, "beta1": 0.5}, "contrasts": ["T1", "T2*"], "note": "x" * 7000}


@pytest.fixture
def store(tmp_path, monkeypatch):
    uri = mlflow_store.fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    return uri


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(follower, "SEND_EVERY_S", 0.05)
    monkeypatch.setattr(follower, "RETRY_EVERY_S", 0.2)


def track(folder, **options):
    options = {"experiment": "e", "run_name": "r", "params": SETTINGS, **options}
    return Tracker(folder / "run", **options)


def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(uri)


def history(uri, run_id, key):
    return [(metric.step, metric.value) for metric in client(uri).get_metric_history(run_id, key)]


def lines(folder):
    return read_metrics(folder / "run" / "metrics.jsonl")[0]


def eventually(condition):
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


# ── metrics.jsonl ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_line_is_on_file_as_soon_as_it_is_logged(tmp_path):
    tracker = track(tmp_path, mlflow=False)
    tracker.log_metrics({"train/loss": torch.tensor(0.25), "lr": 2e-4}, 7)
    (record,) = lines(tmp_path)
    assert record.pop("time") == pytest.approx(time.time(), abs=5)
    assert record == {"step": 7, "train/loss": 0.25, "lr": 2e-4}


def test_numbers_that_are_none_are_kept(tmp_path, store):
    with track(tmp_path) as tracker:
        tracker.log_metrics({"loss": float("nan"), "ratio": float("inf")}, 1)
    (record,) = lines(tmp_path)
    assert (np.isnan(record["loss"]), record["ratio"]) == (True, float("inf"))
    ((_, value),) = history(store, tracker.run_id, "loss")
    assert np.isnan(value)


def test_resuming_drops_the_lines_beyond_the_checkpoint_and_a_torn_one(tmp_path):
    with track(tmp_path, mlflow=False) as tracker:
        for step in range(1, 6):
            tracker.log_metrics({"loss": step}, step)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "ti')
    with track(tmp_path, mlflow=False, step=3) as tracker:
        tracker.log_metrics({"loss": 99, "psnr": 20}, 3)  # the loss of step 3 is there already
        tracker.log_metrics({"loss": 40}, 4)
    found = [{key: value for key, value in record.items() if key != "time"} for record in lines(tmp_path)]
    assert found == [*({"step": s, "loss": s} for s in (1, 2, 3)), {"step": 3, "psnr": 20}, {"step": 4, "loss": 40}]


def test_a_start_from_scratch_drops_every_line(tmp_path):
    for _ in range(2):
        with track(tmp_path, mlflow=False) as tracker:
            tracker.log_metrics({"loss": 1}, 0)
    assert len(lines(tmp_path)) == 1


def test_without_mlflow_nothing_else_is_written_or_waited_for(tmp_path):
    with track(tmp_path, mlflow=False) as tracker:
        tracker.log_image("samples", np.zeros((4, 4)), 0)
        assert tracker.call("nothing", lambda run: 1) is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]
    assert tracker.how_to_open() == f"{tmp_path}/run/metrics.jsonl (MLflow was off)"


# ── what is in the store ────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_whole_in_the_store(tmp_path, store):
    (tmp_path / "split.json").write_text("{}")
    with track(tmp_path, tags={"purpose": "test"}) as tracker:
        for step in range(1500):
            tracker.log_metrics({"train/loss T2*": 1 / (step + 1)}, step)
        tracker.log_image("validation", np.full((8, 16, 3), 0.5), 3)
        tracker.log_image("validation", np.full((8, 16), np.nan), 4)
        tracker.log_artifact(tmp_path / "split.json", "inputs")
        tracker.log_dict({"a": [1, 2]}, "config.yaml")
        tracker.log_dataset("T1", "train", "data/phantom", ["s1", "s2"], {"slices": 80})
        tracker.set_tags({"best": "12"})
        assert tracker.call("a question", lambda run: run.id) == tracker.run_id
    run = client(store).get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "r")
    assert {key: run.data.params[key] for key in ("training.epochs", "contrasts")} == {
        "training.epochs": "3",
        "contrasts": "['T1', 'T2*']",
    }
    assert len(run.data.params["note"]) == 6000
    assert (run.data.tags["purpose"], run.data.tags["best"]) == ("test", "12")
    assert history(store, tracker.run_id, "train/loss T2_") == [(step, 1 / (step + 1)) for step in range(1500)]
    assert "system/cpu_utilization_percentage" in run.data.metrics
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.tags[0].value) == ("T1", "train")
    assert json.loads(data.dataset.profile) == {"items": 2, "slices": 80}
    names = [file.path for file in client(store).list_artifacts(tracker.run_id, "images")]
    assert sum(name.startswith("images/validation+step+3+") and name.endswith(".png") for name in names) == 1
    assert sum(name.endswith("+compressed.webp") for name in names) == 2
    downloaded = client(store).download_artifacts(tracker.run_id, "inputs/split.json", str(tmp_path))
    assert Path(downloaded).read_text() == "{}"
    assert tracker.how_to_open().startswith(f"mlflow ui --backend-store-uri {store}, then http://127.0.0.1:5000/#/exp")


def test_the_image_is_as_it_was_when_it_was_logged(tmp_path, store):
    from PIL import Image

    with track(tmp_path) as tracker:
        image = np.full((4, 4), 200, np.uint8)
        tracker.log_image("a/b", image, 1)
        image[:] = 0
    (file,) = (tmp_path / "mlruns").rglob("a~b*.png")
    assert np.asarray(Image.open(file)).max() == 200


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError(), "FAILED"), (Stopped(15, ""), "KILLED")]
)
def test_the_run_ends_as_the_training_did(tmp_path, store, error, status):
    try:
        with track(tmp_path) as tracker:
            if error:
                raise error
    except (ValueError, Stopped):
        pass
    assert client(store).get_run(tracker.run_id).info.status == status


# ── continuing a run ────────────────────────────────────────────────────────────────────────────────────────


def train(tracker, steps):
    for step in steps:
        tracker.log_metrics({"loss": step * 2}, step)
        if step % 5 == 0:
            tracker.log_image("samples", np.zeros((4, 4, 3)), step)
    tracker.log_dataset("T1", "train", "data", ["a"])


def images(uri, run_id):
    return sorted(
        int(file.path.split("+")[2])
        for file in client(uri).list_artifacts(run_id, "images")
        if file.path.endswith(".png")
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_resumed_run_goes_on_in_its_mlflow_run_without_doubles(tmp_path, store, known):
    with track(tmp_path) as first:
        train(first, range(11))
        first.close("KILLED")
    longer = {**SETTINGS, "training": {"epochs": 4, "beta1": 0.5}}
    with track(tmp_path, params=longer, step=3, run_id=first.run_id if known else None) as second:
        train(second, range(4, 21))
    assert second.run_id == first.run_id
    run = client(store).get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert history(store, first.run_id, "loss") == [(step, step * 2) for step in range(21)]
    assert [record["step"] for record in lines(tmp_path)] == list(range(21))
    assert images(store, first.run_id) == [0, 5, 10, 15, 20]
    assert len(run.inputs.dataset_inputs) == 1
    assert (run.data.params["training.epochs"], run.data.tags["changed.training.epochs"]) == ("3", "4")
    system = [step for step, _ in history(store, first.run_id, "system/cpu_utilization_percentage")]
    assert len(system) == len(set(system)) >= 2


def leave_running(folder):
    tracker = track(folder)
    train(tracker, range(6))
    assert tracker.call("sync", lambda run: run.id)
    tracker._follower._run.end = lambda status: None  # as after kill -9
    tracker.close()
    return tracker


def test_a_run_killed_before_its_first_checkpoint_is_continued(tmp_path, store):
    first = leave_running(tmp_path)
    with track(tmp_path) as second:
        train(second, range(9))
    assert second.run_id == first.run_id
    assert history(store, first.run_id, "loss") == [(step, step * 2) for step in range(9)]


def test_a_run_with_other_settings_in_the_same_folder_is_a_new_one(tmp_path, store):
    first = leave_running(tmp_path)
    with track(tmp_path, params={"training": {"epochs": 9}}) as second:
        pass
    assert second.run_id != first.run_id
    assert client(store).get_run(first.run_id).info.status == "KILLED"


def test_a_run_that_the_store_does_not_have_is_made_from_the_file(tmp_path, store):
    with track(tmp_path, mlflow=False) as first:
        train(first, range(6))
    with track(tmp_path, step=5, run_id="0" * 32) as second:
        train(second, range(6, 9))
    assert history(store, second.run_id, "loss") == [(step, step * 2) for step in range(9)]


# ── failing stores ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["closed", "hanging", "error", "garbage"])
def test_a_dead_server_costs_seconds_and_one_line_and_loses_nothing(tmp_path, monkeypatch, capsys, kind):
    import mlflow  # noqa: F401  (its import is not the server's delay)

    if kind == "hanging":  # nothing but the tracker's own patience ends the waiting
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    with mlflow_store.failing_server(kind) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        started = time.monotonic()
        with track(tmp_path) as tracker:
            train(tracker, range(50))
            assert tracker.call("a model", lambda run: 1) is None
            tracker.close()
        assert time.monotonic() - started < 9.5
    assert [record["step"] for record in lines(tmp_path)] == list(range(50))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"tracking: {uri} is not followed (")
    assert tracker.how_to_open().endswith("metrics.jsonl (MLflow was not reached)")


@pytest.mark.parametrize("way", ["hang", "error"])
def test_a_server_that_fails_half_way_and_comes_back_has_every_point_once(tmp_path, monkeypatch, capsys, quick, way):
    server = mlflow_store.Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    batches = []

    def fail_behind_the_third_batch(path):
        batches.extend([path] if path.endswith("log-batch") else [])
        if path.endswith("log-batch") and len(batches) == 3:  # the points are in, but the answer never comes
            server.mode = way
            time.sleep(1.5)

    server.after = fail_behind_the_third_batch
    with track(tmp_path) as tracker:
        for step in range(0, 40, 5):
            train(tracker, range(step, step + 5))
            time.sleep(0.1)
        eventually(lambda: not tracker.follows)
        server.mode = "ok"
        eventually(lambda: tracker.follows)
        train(tracker, range(40, 51))
    assert history(server.uri, tracker.run_id, "loss") == [(step, step * 2) for step in range(51)]
    assert images(server.uri, tracker.run_id) == list(range(0, 51, 5))
    assert client(server.uri).get_run(tracker.run_id).info.status == "FINISHED"
    server.stop()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_server_that_dies_at_the_end_costs_seconds(tmp_path, monkeypatch, quick):
    server = mlflow_store.Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    tracker = track(tmp_path)
    eventually(lambda: tracker.run_id)
    server.mode = "hang"
    started = time.monotonic()
    train(tracker, range(30))
    for name in ("first model", "second model"):
        assert tracker.call(name, lambda run: run.end("FAILED")) is None
    tracker.close()
    assert time.monotonic() - started < 9.5
    assert len(lines(tmp_path)) == 30
    server.stop()


def test_a_store_of_another_release_is_named_with_its_remedy(tmp_path, store, capsys):
    import sqlite3

    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'c48cb773bb87'")
    with track(tmp_path) as tracker:
        tracker.log_metrics({"loss": 1}, 1)
    said = capsys.readouterr().err
    assert "`mlflow db upgrade sqlite:///mlflow.db`" in said
    assert said.count("\n") == 1
    assert len(lines(tmp_path)) == 1


def test_what_the_store_refuses_is_named_and_the_rest_goes_on(tmp_path, store, capsys):
    with track(tmp_path) as tracker:
        tracker.log_artifact(tmp_path / "missing.png")
        tracker.log_metrics({"loss": 1}, 1)
    assert "did not take" in capsys.readouterr().err
    assert history(store, tracker.run_id, "loss") == [(1, 1.0)]
    assert client(store).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_deleted_experiment_is_named(tmp_path, store, capsys):
    client(store).delete_experiment(client(store).create_experiment("e"))
    with track(tmp_path):
        pass
    assert 'the experiment "e" is deleted' in capsys.readouterr().err


# ── the training beside it ──────────────────────────────────────────────────────────────────────────────────


def test_no_random_number_is_drawn(tmp_path, store):
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    with track(tmp_path) as tracker:
        train(tracker, range(20))
        tracker.call("sync", lambda run: run.id)
    assert states == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def test_processes_forked_while_it_works_end(tmp_path, store, quick):
    with track(tmp_path) as tracker:
        for step in range(25):
            train(tracker, range(step * 5, step * 5 + 5))
            child = os.fork()
            if child == 0:
                json.dumps([np.zeros(10).tolist()])
                os._exit(0)
            eventually(lambda child=child: os.waitpid(child, os.WNOHANG)[0] == child)


def test_the_default_store_is_made_quietly_and_an_exit_without_close_does_not_hang():
    folder, done = mlflow_store.first_use()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mlflow ui, then http://127.0.0.1:5000/#/experiments/1/runs/")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    (run,) = client(store).search_runs(["1"], "attributes.status = 'FINISHED'")
    assert run.data.metrics["loss"] == 1
