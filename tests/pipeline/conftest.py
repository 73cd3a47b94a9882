import pytest
from negative_model import loads, negative_model


@pytest.fixture
def model(monkeypatch):
    """What every `--model` loads."""
    made = negative_model()
    loads(monkeypatch, lambda uri, device: made)
    return made
