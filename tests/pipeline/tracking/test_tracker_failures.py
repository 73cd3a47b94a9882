import sqlite3
import time
from contextlib import closing

import mlflow_store
import pytest
from tracked_run import SETTINGS, client, eventually, history, images, lines, track, train

from pipeline.tracking import mlflow_worker as follower
from pipeline.tracking.mlflow_settings import REQUEST_TIMEOUT_S


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
    tracker._worker._run.end = lambda status: None  # as after kill -9
    tracker.close()
    return tracker


def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_the_one_before_is_closed(tmp_path, store):
    first = leave_running(tmp_path)
    with track(tmp_path) as second:
        train(second, range(9))
    assert second.run_id != first.run_id
    assert client(store).get_run(first.run_id).info.status == "KILLED"
    assert history(store, second.run_id, "loss") == [(step, step * 2) for step in range(9)]


def test_a_run_that_the_store_does_not_have_is_made_from_the_file(tmp_path, store):
    with track(tmp_path, mlflow=False) as first:
        train(first, range(6))
    with track(tmp_path, step=5, run_id="0" * 32) as second:
        train(second, range(6, 9))
    assert history(store, second.run_id, "loss") == [(step, step * 2) for step in range(9)]


@pytest.fixture
def waits(monkeypatch):
    """The seconds of each time that training waited for MLflow: on a busy machine all else may take long."""
    seconds, wait = [], follower.MlflowWorker._wait

    def timed(worker, event):
        started = time.monotonic()
        wait(worker, event)
        seconds.append(time.monotonic() - started)

    monkeypatch.setattr(follower.MlflowWorker, "_wait", timed)
    return seconds


def test_training_waits_less_than_ten_seconds_for_a_server_in_all():
    assert follower.PATIENCE_S + REQUEST_TIMEOUT_S <= 10  # the tests below wait less


@pytest.mark.parametrize("kind", ["closed", "hanging", "error"])
def test_a_dead_server_costs_seconds_and_one_line_and_loses_nothing(tmp_path, monkeypatch, capsys, waits, kind):
    import mlflow  # noqa: F401  (its import is not the server's delay)

    monkeypatch.setattr(follower, "PATIENCE_S", 1.0)
    if kind == "hanging":  # nothing but the tracker's own patience ends the waiting
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with mlflow_store.failing_server(kind) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with track(tmp_path) as tracker:
            train(tracker, range(50))
            assert tracker.call("a model", lambda run: 1) is None
            tracker.close()
    assert waits and sum(waits) < 4.5
    assert [record["step"] for record in lines(tmp_path)] == list(range(50))
    output = capsys.readouterr().err.splitlines()
    assert len(output) == 2
    assert output[0].startswith(f"warning: {uri} is not followed (")
    assert f"`python -m pipeline.sync {tmp_path}/run` sends it later" in output[1]
    assert tracker.open_instructions().endswith("metrics.jsonl (MLflow was not reached)")


def test_a_server_that_fails_half_way_and_comes_back_has_every_point_once(tmp_path, monkeypatch, capsys, quick):
    server = mlflow_store.Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    batches = []

    def fail_behind_the_third_batch(path):
        batches.extend([path] if path.endswith("log-batch") else [])
        if path.endswith("log-batch") and len(batches) == 3:  # the points are in, but the answer never comes
            server.mode = "hang"
            time.sleep(1.5)

    server.after = fail_behind_the_third_batch
    with track(tmp_path) as tracker:
        for step in range(0, 40, 5):
            train(tracker, range(step, step + 5))
            time.sleep(0.1)
        eventually(lambda: not tracker._worker.is_connected)
        server.mode = "ok"
        eventually(lambda: tracker._worker.is_connected)
        train(tracker, range(40, 51))
    assert history(server.uri, tracker.run_id, "loss") == [(step, step * 2) for step in range(51)]
    assert images(server.uri, tracker.run_id) == list(range(0, 51, 5))
    assert client(server.uri).get_run(tracker.run_id).info.status == "FINISHED"
    server.stop()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_server_that_dies_at_the_end_costs_seconds(tmp_path, monkeypatch, quick, waits):
    server = mlflow_store.Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(follower, "PATIENCE_S", 1.0)
    tracker = track(tmp_path)
    eventually(lambda: tracker.run_id)
    server.mode = "hang"
    train(tracker, range(30))
    for name in ("first model", "second model"):
        assert tracker.call(name, lambda run: run.end("FAILED")) is None
    tracker.close()
    assert waits and sum(waits) < 4.5
    assert len(lines(tmp_path)) == 30
    server.stop()


def test_a_store_that_refuses_is_asked_twice_however_much_is_logged(tmp_path, monkeypatch):
    calls = []

    def refuse(info, *_, **__):
        calls.append(info.name)  # a thread that an earlier test left with a server that hangs may ask, too
        raise ConnectionError("no")

    monkeypatch.setattr(follower, "MlflowRun", refuse)
    with track(tmp_path, run_name="refused") as tracker:
        train(tracker, range(400))
        eventually(lambda: not tracker._worker.is_connected)
        assert tracker.call("a model", lambda run: 1) is None
    assert calls.count("refused") == 2  # at the start and at the end; in between only after RETRY_EVERY_S


@pytest.mark.parametrize("garment", ["as it is", "without a table"])  # MLflow migrates the second without a word
def test_a_store_of_another_release_is_left_alone_and_named_with_its_remedy(tmp_path, store, capsys, garment):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", ["c48cb773bb87"])
        if garment == "without a table":
            database.execute("DROP TABLE webhook_events")
        database.commit()
    before = (tmp_path / "mlflow.db").read_bytes()
    with track(tmp_path) as tracker:
        tracker.log_metrics({"loss": 1}, 1)
    output = capsys.readouterr().err.splitlines()
    assert len(output) == 2
    assert (
        f"another release of MLflow; update mlflow, or back up the store and run `mlflow db upgrade {store}`"
        in output[0]
    )
    assert (tmp_path / "mlflow.db").read_bytes() == before
    assert len(lines(tmp_path)) == 1


def test_what_the_store_refuses_is_named_and_the_rest_goes_on(tmp_path, store, capsys):
    with track(tmp_path) as tracker:
        tracker.log_artifact(tmp_path / "missing.png")
        tracker.log_metrics({"loss": 1}, 1)
    assert "did not take" in capsys.readouterr().err
    assert history(store, tracker.run_id, "loss") == [(1, 1.0)]
    assert client(store).get_run(tracker.run_id).info.status == "FINISHED"
