import mlflow_store
import pytest

from pipeline.tracking import mlflow_worker as follower


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The address of a new store, which is the one in use."""
    uri = mlflow_store.fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    return uri


@pytest.fixture
def quick(monkeypatch):
    """MLflow is told at once, and asked again soon."""
    monkeypatch.setattr(follower, "SEND_EVERY_S", 0.05)
    monkeypatch.setattr(follower, "RETRY_EVERY_S", 0.2)
