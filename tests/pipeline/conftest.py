import pytest
from negative_model import negative_model

import pipeline.translation.model


@pytest.fixture
def model(monkeypatch):
    """What every `--model` loads."""
    made = negative_model()
    monkeypatch.setattr(pipeline.translation.model, "load_model", lambda uri, device: made)
    return made
