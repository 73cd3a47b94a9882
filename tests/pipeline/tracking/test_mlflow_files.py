"""A project that was moved or copied: its files are found beside its store, and nothing is written elsewhere."""

import shutil
from pathlib import Path

import mlflow_store
import pytest
import torch
from torch import nn

from pipeline.tracking.mlflow_models import load_translator, log_translator
from pipeline.tracking.mlflow_settings import artifact_folder
from pipeline.tracking.tracker import Tracker
from pipeline.utils.errors import UserError


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
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")
    return tmp_path / "new"


def test_a_moved_projects_models_are_found(template, old, new):
    shutil.move(old, new)
    for uri in template[1:]:
        module, metadata = load_translator(uri)
        assert metadata == {"to": "T2"} and module(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    assert not old.exists()


def test_a_copys_own_files_are_used_while_the_old_ones_exist(template, old, new):
    shutil.copytree(old, new)
    for damaged in old.rglob("model.pt2"):
        damaged.write_bytes(b"not the copy's")
    load_translator(template[1])


def test_files_that_are_nowhere_are_named_with_where_they_belong(template, old, new):
    shutil.move(old, new)
    shutil.rmtree(new / "mlruns")
    with pytest.raises(UserError, match="its files are gone; bring back the folder mlruns beside sqlite:"):
        load_translator(template[1])


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


def test_a_run_without_a_models_name_lists_its_models(template, monkeypatch):
    folder, _, address = template
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    run = address.rpartition("/")[0]
    for uri in (run, f"{run}/"):
        with pytest.raises(UserError, match=f"^{uri}: names a run, not a model; choose {address}$"):
            load_translator(uri)
    with pytest.raises(UserError, match=f"the run has no such model; choose {address}$"):
        load_translator(f"{run}/T2-to-T1")
