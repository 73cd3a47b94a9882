import mlflow_store
import pytest
from negative_model import loads, negative_model
from sweep_runs import stand_in


@pytest.fixture
def model(monkeypatch):
    """What every `--model` loads."""
    made = negative_model()
    loads(monkeypatch, lambda uri, device: made)
    return made


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The address of a new store, which is the one in use."""
    uri = mlflow_store.fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    return uri


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The working folder of a sweep, in which a script stands in for `pipeline.run`."""
    return stand_in(tmp_path, monkeypatch)
