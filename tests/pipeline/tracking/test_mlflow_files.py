"""A project that was moved or copied: its files are found beside its store, and nothing is written elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow_store
import pytest
import torch
from torch import nn
from tracked_run import track, train

import pipeline
from pipeline.tracking import mlflow_settings
from pipeline.tracking.mlflow_models import load_translator, log_translator
from pipeline.tracking.mlflow_run import MlflowRun, RunInfo
from pipeline.tracking.mlflow_settings import artifact_folder
from pipeline.tracking.tracker import Tracker
from pipeline.utils.errors import UserError


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project's folder with a store that holds a registered model and a run with pictures, and what it is called."""
    folder = tmp_path_factory.mktemp("projects") / "old"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_store.fresh_store(folder))
        with Tracker(folder / "model", experiment="models", run_name="r", params={}) as tracker:
            tracker.call("nothing", lambda run: None)
            address = log_translator(
                tracker, nn.Conv2d(1, 1, 3, padding=1), name="T1-to-T2", stride=4, metadata={"to": "T2"},
                register_as="m",
            )  # fmt: skip
        with track(folder / "tracked") as tracked:
            train(tracked, range(3))
    return folder, address, f"runs:/{tracker.run_id}/T1-to-T2"


@pytest.fixture
def old(template, tmp_path):
    """A fresh copy of the project in the place that its store has recorded, for what the test does to it."""
    folder = template[0]
    shutil.copytree(folder, tmp_path / "kept")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tmp_path / "kept", folder)


@pytest.fixture
def new(old, tmp_path, monkeypatch):
    """Where the project's folder goes, which is made the present one."""
    mlflow_settings._report_move.cache_clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")
    return tmp_path / "new"


def test_a_moved_projects_models_are_found_and_that_is_said_once(template, old, new, capsys):
    shutil.move(old, new)
    for uri in template[1:] * 2:
        module, about = load_translator(uri)
        assert about == {"to": "T2"} and module(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and f"it was moved, so those in {new}/mlruns are used" in line
    assert not old.exists()


def test_a_copys_own_files_are_used_while_the_old_ones_exist(template, old, new):
    shutil.copytree(old, new)
    for damaged in old.rglob("model.pt2"):
        damaged.write_bytes(b"not the copy's")
    before = everything_below(old)
    load_translator(template[1])
    assert everything_below(old) == before


def test_files_that_are_nowhere_are_named_with_where_they_belong(template, old, new):
    shutil.move(old, new)
    shutil.rmtree(new / "mlruns")
    with pytest.raises(UserError, match="its files are gone; bring back the folder mlruns beside sqlite:"):
        load_translator(template[1])


def test_sync_writes_into_a_copy_and_not_into_the_project_it_was_made_of(old, new):
    shutil.copytree(old, new)
    (new / "tracked" / "run" / "note.txt").write_text("new")
    with (new / "tracked" / "run" / "tracking.jsonl").open("a") as journal:
        print('{"kind": "artifact", "path": "note.txt", "folder": null}', file=journal)
    before = everything_below(old)
    command = [sys.executable, "-m", "pipeline.sync", str(new / "tracked" / "run")]  # MLflow keeps its places in mind
    environment = os.environ | {"PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    process = subprocess.run(command, cwd=new, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert [path.read_text() for path in (new / "mlruns").rglob("note.txt")] == ["new"]
    assert everything_below(old) == before


@pytest.mark.parametrize(
    ("there", "recorded", "used"),
    [
        ("home/mlruns/1", "/gone/mlruns/1/r/artifacts", "home/mlruns/1/r/artifacts"),
        ("home/mlruns/1", "{}/home/mlruns/1/r/artifacts", "home/mlruns/1/r/artifacts"),
        ("other/mlruns/1", "{}/other/mlruns/1/r/artifacts", "other/mlruns/1/r/artifacts"),  # a store shared by folders
        ("home/mlruns/1", "/data/mine/1/artifacts", "/data/mine/1/artifacts"),  # the user's own place
        ("home/mlruns/1", "/mlruns/p/mlruns/1/models/m-1/artifacts", "home/mlruns/1/models/m-1/artifacts"),
    ],
)
def test_where_files_are(tmp_path, there, recorded, used):
    (tmp_path / there).mkdir(parents=True)
    (tmp_path / "home").mkdir(exist_ok=True)
    assert artifact_folder(tmp_path / "home" / "mlflow.db", Path(recorded.format(tmp_path))) == tmp_path / used


def test_a_store_elsewhere_has_its_files_where_it_has_recorded_them(tmp_path, monkeypatch, capsys):
    for name in ("store", "project"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store.fresh_store(tmp_path / "store"))
    run = MlflowRun(RunInfo("e", "r", {}, {}))
    Path("note.txt").write_text("new")
    run.client.log_artifact(run.id, "note.txt")
    assert (Path(run.client.get_run(run.id).info.artifact_uri) / "note.txt").read_text() == "new"
    assert not (tmp_path / "store" / "mlruns").exists() and capsys.readouterr().err == ""


# ── addresses that stop half way ────────────────────────────────────────────────────────────────────────────


def test_a_run_without_a_models_name_lists_its_models(template, monkeypatch):
    folder, _, address = template
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    run = address.rpartition("/")[0]
    for uri in (run, f"{run}/"):
        with pytest.raises(UserError, match=f"^{uri}: names a run, not a model; choose {address}$"):
            load_translator(uri)
    with pytest.raises(UserError, match=f"the run has no such model; choose {address}$"):
        load_translator(f"{run}/T2-to-T1")
    with pytest.raises(UserError, match=r"names no version of a model; choose models:/m@best or models:/m/1$"):
        load_translator("models:/m")


def test_a_run_without_models_says_so(tmp_path, monkeypatch, store):
    with track(tmp_path / "a") as tracker:
        train(tracker, range(2))
    with pytest.raises(UserError, match="names a run, not a model; it has none; give a run's folder or"):
        load_translator(f"runs:/{tracker.run_id}")
