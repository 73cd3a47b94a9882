import pytest

from pipeline.tracking import mlflow_worker as follower


@pytest.fixture
def quick(monkeypatch):
    """MLflow is told at once, and asked again soon."""
    monkeypatch.setattr(follower, "SEND_EVERY_S", 0.05)
    monkeypatch.setattr(follower, "RETRY_EVERY_S", 0.2)
