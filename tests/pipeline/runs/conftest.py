import pytest

from pipeline.runs.checkpoint import CheckpointFolder


@pytest.fixture
def folder(tmp_path):
    """A run's folder of checkpoints, empty."""
    return CheckpointFolder(tmp_path / "checkpoints")
