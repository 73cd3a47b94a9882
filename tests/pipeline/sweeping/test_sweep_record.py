import json

import mlflow_store
import pytest
import submitit
import torch
from finished_runs import finished_run
from small_run import CONFIGS, in_child
from sweep_runs import config, did
from tracked_run import client, history

from pipeline import sweep
from pipeline.config.load import load_config
from pipeline.run_builders import open_tracker
from pipeline.runs.folder import RunFolder
from pipeline.sweep import main
from pipeline.sweeping import optuna_search
from pipeline.sync import main as sync

PSNR = "test/T1_to_T2/model/own/volume_foreground_psnr"


@pytest.fixture
def store(workspace, monkeypatch):
    uri = mlflow_store.fresh_store(workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def sweeps(uri):
    """The MLflow runs of sweeps."""
    experiments = [experiment.experiment_id for experiment in client(uri).search_experiments()]
    return client(uri).search_runs(experiments, "tags.kind = 'sweep'")


def begun(workspace, uri, name, psnr):
    """A finished run that MLflow has already; returns its id there."""
    folder = finished_run(workspace / "runs", name, psnr, settings={"tracking": {"mlflow": True}})
    run_id = client(uri).create_run("0", run_name=name).info.run_id
    (folder / "mlflow.json").write_text(json.dumps({"run_id": run_id}))
    return run_id


def test_runs_stand_below_one_that_has_the_comparison_and_the_same_command_finds_it_again(workspace, store):
    children = [begun(workspace, store, name, psnr) for name, psnr in (("nested-a", 13), ("nested-b", 14))]
    arguments = [config("nested-a", mlflow=True), config("nested-b", mlflow=True), "training.epochs=3", "--quiet"]
    for _ in range(2):
        assert main(arguments) == 0
        (run,) = sweeps(store)
        parents = {client(store).get_run(child).data.tags["mlflow.parentRunId"] for child in children}
        assert parents == {run.info.run_id} and run.info.status == "FINISHED"
    assert {line for line in did() if "below" in line} == {
        f"nested-{name} below {run.info.run_id}" for name in "ab"
    }  # fmt: skip
    assert run.info.run_name == "sweep" and run.data.params["training.epochs"] == "3"
    assert run.data.metrics[PSNR] == pytest.approx(17.0) and run.data.tags["best.T1_to_T2"] == "nested-b"
    assert not any(key.startswith("system/") for key in run.data.metrics)
    text = run.data.tags["mlflow.note.content"]
    assert text.startswith("Sweep of 2 runs: nested-a.yaml, nested-b.yaml.\n\n- `training.epochs`: 3\n\nBest masked")
    assert "| T1 → T2, 7 subjects | method | PSNR [dB]" in text and "| nested-b | cyclegan | 17.00 ± " in text
    files = {file.path for file in client(store).list_artifacts(run.info.run_id)}
    assert files == {"compare.html", "compare.csv", "compare.json", "comparison_table.json"}


def test_a_run_that_a_sweep_started_names_its_parent(workspace, store, monkeypatch):
    monkeypatch.setenv("MRI_PARENT_RUN", "a sweep")
    settings = load_config(CONFIGS / "phantom.yaml")
    with open_tracker(settings, RunFolder(workspace / "run"), None, torch.device("cpu")) as tracker:
        run_id = tracker.call("the run", lambda run: run.id)
    assert client(store).get_run(run_id).data.tags["mlflow.parentRunId"] == "a sweep"


def test_without_mlflow_nothing_changes_and_sync_sends_it_later(workspace, monkeypatch, capsys):
    arguments = [config("nested-a", mlflow=True), config("bad", mlflow=True), "--quiet"]
    with mlflow_store.failing_server("closed") as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert main(arguments) == 3
    assert [line for line in did() if "below" in line] == ["nested-a below none"]
    assert "python -m pipeline.sync runs/sweep/sweep_record" in capsys.readouterr().err
    store = mlflow_store.fresh_store(workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    child = begun(workspace, store, "nested-a", 13)
    assert sync(["runs/sweep/sweep_record"]) == 0
    (run,) = sweeps(store)
    assert client(store).get_run(child).data.tags["mlflow.parentRunId"] == run.info.run_id
    assert run.info.status == "FAILED" and "**failed: bad**" in run.data.tags["mlflow.note.content"]


def test_a_search_has_the_scores_of_its_trials_over_their_numbers(workspace, store, monkeypatch):
    monkeypatch.setattr(optuna_search, "best_score", lambda folder: float(str(folder)[-1]) + 20)
    name, ranges = config("nested", mlflow=True), ["--range", "training.learning_rate=1e-4..1e-2:log"]
    for number in (1, 3):
        main([name, "--search", str(number), *ranges, "--quiet"])
    (run,) = sweeps(store)
    assert history(store, run.info.run_id, "search/validation_score") == [(0, 20.0), (1, 21.0), (2, 22.0)]
    assert run.data.params["training.learning_rate"] == "1e-4..1e-2:log"
    assert "best of 3: trial-2, validation score 22.000: training.learning_rate=" in run.data.tags["best_trial"]
    assert len([line for line in did() if line.endswith(f"below {run.info.run_id}")]) == 3


def test_runs_on_a_cluster_know_their_parent(workspace, store, monkeypatch):
    executor = submitit.LocalExecutor(workspace / "cluster")
    monkeypatch.setattr(sweep, "slurm_executor", lambda *_: executor)
    assert main([config("nested", mlflow=True), "--cluster", "slurm", "--slurm", "time=9", "--quiet"]) == 0
    (run,) = sweeps(store)
    assert [line for line in did() if "below" in line] == [f"nested below {run.info.run_id}"]


def test_another_sweep_in_the_same_folder_has_a_run_of_its_own(workspace, store):
    begun(workspace, store, "nested-a", 13)
    for epochs in (3, 4, 3):
        assert main([config("nested-a", mlflow=True), f"training.epochs={epochs}", "--quiet"]) == 0
    assert sorted(run.data.params["training.epochs"] for run in sweeps(store)) == ["3", "3", "4"]


def test_two_sweeps_at_once_in_a_folder_are_refused(workspace, store, capfd):
    begun(workspace, store, "nested-a", 13)
    assert main([config("nested-a", mlflow=True), "--quiet"]) == 0
    (record,) = {path.parent for path in workspace.rglob("tracking.jsonl")}
    with RunFolder(record).lock():
        assert in_child(lambda: main([config("nested-a", mlflow=True), "--quiet"])) == 2
    assert f"{record.name}: another process is at work" in capfd.readouterr().err
