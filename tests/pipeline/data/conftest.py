import pytest

from pipeline.data import pairs


@pytest.fixture
def no_registration(monkeypatch):
    def refuse(*_):
        raise AssertionError("registered although there was no need")

    monkeypatch.setattr(pairs, "register_rigid", refuse)
