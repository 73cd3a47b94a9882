import json
import signal
from pathlib import Path

import mlflow_store
import pytest
import torch
from small_engine import leaves
from small_run import (
    CONFIGS,
    QUICK,
    TINY,
    empty_models,
    in_child,
    latest,
    logged,
    phantom_run,
    signal_at,
    train_phantom,
    unlike,
    without_pictures,
    workshop,
)

import pipeline.train
from pipeline.config.load import load_config
from pipeline.data.split_file import split_to_json
from pipeline.data_builders import planned_cases, split_cases, warn_of_other_split
from pipeline.inference.model import load_model
from pipeline.run_config import is_finished
from pipeline.runs.folder import RunFolder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run without any disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train_phantom(folder, *QUICK) == 0
    return folder


def assert_same_end(folder, uninterrupted):
    assert sum(isinstance(leaf, torch.Tensor) for leaf in leaves(latest(folder)["engine"]).values()) > 100
    assert unlike(folder, uninterrupted) == set()
    metrics = [record for record in logged(folder) if not any(name.startswith("test/") for name in record)]
    assert metrics == logged(uninterrupted)


def killed(monkeypatch, folder, step, *overrides):
    """Start the run in a process of its own that is killed in the middle of a step."""
    with monkeypatch.context() as patch:
        signal_at(patch, signal.SIGKILL, step)
        assert in_child(lambda: train_phantom(folder, *QUICK, *overrides)) == -signal.SIGKILL


def test_a_run_killed_before_and_between_its_checkpoints_repeats_what_was_lost(uninterrupted, monkeypatch, tmp_path):
    killed(monkeypatch, tmp_path / "run", 2)
    assert not (tmp_path / "run" / "checkpoints").exists()
    on_device = "training.slices_on_device=true"  # which changes nothing of what is learnt
    killed(monkeypatch, tmp_path / "run", 7, on_device)
    assert latest(tmp_path / "run")["position"]["step"] == 4
    pictures = {path: path.read_bytes() for path in (tmp_path / "run" / "samples").rglob("*.png")}
    assert len(pictures) == 4  # two directions, untrained and after the first epoch
    assert train_phantom(tmp_path / "run", *QUICK, on_device) == 0
    assert_same_end(tmp_path / "run", uninterrupted)
    assert all(path.read_bytes() == content for path, content in pictures.items())
    assert len(list((tmp_path / "run" / "samples").rglob("*.png"))) == 6  # the earlier session's, and the last epoch's


def test_a_run_stopped_while_it_reports_does_only_the_rest(uninterrupted, monkeypatch, tmp_path, capsys):
    def stop(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    quicker = (*QUICK, "evaluation.uncertainty=false", "evaluation.translate=false")
    folder = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.train, "save_curves", stop)
        assert phantom_run(folder.path, *quicker) == 143
    assert not folder.record.exists() and not folder.report.exists()  # the record would say that all is done
    assert "SIGTERM after training" in capsys.readouterr().err
    with without_pictures():
        assert phantom_run(folder.path, *quicker) == 0
    assert_same_end(folder.path, uninterrupted)
    config = load_config(folder.config)
    assert is_finished(folder, config)
    with without_pictures(), monkeypatch.context() as patch:  # evaluated anew, in other protocols say, and stopped
        patch.setattr(pipeline.train, "write_run_report", stop)
        assert phantom_run(folder.path, *quicker) == 143
    assert not is_finished(folder, config) and "seconds" in folder.record.read_text()
    capsys.readouterr()
    with monkeypatch.context() as patch:  # on the way from loading to evaluating
        patch.setattr(pipeline.train, "log_inputs", stop)
        patch.setattr(pipeline.train, "finish", lambda *_: pytest.fail("evaluated all the same"))
        assert phantom_run(folder.path, *quicker) == 143
    assert "stopped: SIGTERM after training; all of it is saved" in capsys.readouterr().err


def test_a_run_stopped_while_it_prepares_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pipeline.train, "prepare_run", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert phantom_run(tmp_path / "run", *QUICK) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stopped: ")


def test_a_split_file_that_a_run_does_not_follow_is_warned_of(tmp_path, caplog):
    config = load_config(CONFIGS / "phantom.yaml", [*TINY, f"data.folder={workshop() / 'phantom'}"])
    cases, saved, other = planned_cases(config), tmp_path / "saved.json", tmp_path / "other.json"
    saved.write_text(json.dumps(split_to_json(split_cases(config, cases))))
    other.write_text(saved.read_text())
    named = load_config(CONFIGS / "phantom.yaml", [*TINY, f"data.folder={config.data.folder}", f"split.file={other}"])
    warn_of_other_split(config, cases, saved)
    warn_of_other_split(named, cases, None)  # not trained yet
    warn_of_other_split(named, cases, saved)
    assert caplog.messages == []
    other.unlink()
    warn_of_other_split(named, cases, saved)
    assert caplog.messages == [f"split.file = {other}: has no effect, for the run keeps the split of {saved}"]


# ── asked to stop ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def store(tmp_path, monkeypatch):
    """MLflow's default store, in the folder where the command is typed."""
    mlflow_store.fresh_store(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def runs(store):
    from mlflow import MlflowClient

    client = MlflowClient(store)
    return client.search_runs([client.get_experiment_by_name("contrast-translation").experiment_id])


def test_a_run_asked_to_end_goes_on_in_its_mlflow_run(uninterrupted, store, monkeypatch, capfd):
    from mlflow import MlflowClient

    folder, mlflow_on = Path("runs/tiny"), ("evaluation.protocols=[]", "tracking.register_as=null")
    with monkeypatch.context() as patch:
        signal_at(patch, signal.SIGTERM, 6)
        assert in_child(lambda: train_phantom(folder, *mlflow_on)) == 143
    message = capfd.readouterr().err
    assert "stopped: SIGTERM after step 6; saved; the same command goes on from there" in message
    assert latest(folder)["position"]["step"] == 6
    (stopped,) = runs(store)
    assert stopped.info.status == "KILLED"
    assert in_child(lambda: train_phantom(folder, *mlflow_on)) == 0
    assert "continuing runs/tiny after step 6" in capfd.readouterr().out
    (finished,) = runs(store)
    assert (finished.info.run_id, finished.info.status) == (stopped.info.run_id, "FINISHED")
    assert unlike(folder, uninterrupted) == set()
    losses = MlflowClient(store).get_metric_history(finished.info.run_id, "train/cycle_a")
    assert [point.step for point in losses] == list(range(1, 9))


def test_a_dead_mlflow_changes_no_weight_and_the_run_is_sent_later(uninterrupted, store, monkeypatch, capsys):
    from mlflow import MlflowClient

    from pipeline.sync import main
    from pipeline.tracking.mlflow_run import metric_key

    folder = Path("runs/tiny")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert phantom_run(folder, "evaluation.protocols=[]", "evaluation.uncertainty=false") == 0
    assert_same_end(folder, uninterrupted)
    assert "warning: MLflow has not got all of this run; `python -m pipeline.sync" in capsys.readouterr().err
    with empty_models():
        assert main([str(folder)]) == 0
    (run,) = runs(store)
    assert run.info.status == "FINISHED" and "warning" not in capsys.readouterr().err
    client = MlflowClient(store)
    for record in logged(folder):
        for name in record.keys() - {"step"}:
            points = client.get_metric_history(run.info.run_id, metric_key(name))
            assert [point.value for point in points if point.step == record["step"]] == [record[name]], name
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert sum(path.endswith(".png") for path in pictures) == 6  # two directions: untrained, and after each epoch
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "split.json", "report.html", "mosaics", "training_T1_to_T2.gif"} <= artifacts
    for name in ("phantom-T1-to-T2", "phantom-T2-to-T1"):
        assert [version.version for version in client.search_model_versions(f"name='{name}'")] == [1]
    assert not (folder / "unsent").exists()


def test_a_run_that_began_with_another_version_of_the_chain_goes_on_with_it(monkeypatch, tmp_path):
    run, frequent_checkpoints = tmp_path / "run", "training.checkpoint_minutes=0.00001"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.train, "chain_version", lambda state: 1)
        killed(patch, run, 3, frequent_checkpoints)
    assert latest(run)["chain_version"] == 1
    assert in_child(lambda: train_phantom(run, *QUICK, frequent_checkpoints)) == 0
    assert latest(run)["chain_version"] == 1
    assert load_model(run, "cpu").settings.version == 1
