"""Which models a finished run logs when its command is repeated."""

from types import SimpleNamespace

import pytest
from torch import nn

import pipeline.evaluation.logged_models as logged_models


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Logs both directions with metadata; returns the scores of those that were logged anew."""
    logged = {}

    def log_translator(*_, name, score, score_name, description, **__):
        assert score_name == "PSNR [dB] + 10 SSIM" and description == f"card of {name.rpartition('-')[2]}"
        logged[name] = score
        return f"models:/{name}@best"

    monkeypatch.setattr(logged_models, "log_translator", log_translator)
    monkeypatch.setattr(
        logged_models, "model_card", lambda model, to, *, evaluated_now: f"card of {to}" if evaluated_now else ""
    )
    model = SimpleNamespace(contrasts=("T1", "T2"), translators={to: nn.Identity() for to in ("T1", "T2")}, stride=8)
    tracker = SimpleNamespace(call=lambda what, ask: ask(SimpleNamespace(id="r")))

    def log(metadata, checkpoint="best", register_as=None):
        logged.clear()
        note = tmp_path / "models.json"
        addresses = logged_models.log_models(
            tracker,
            model,
            metadata,
            note,
            checkpoint=checkpoint,
            step=5,
            best_scores={"T1": 1.0, "T2": 2.0},
            register_as=register_as,
        )
        assert addresses == {"T1": "models:/T2-to-T1@best", "T2": "models:/T1-to-T2@best"}
        return dict(logged)

    return log


BOTH = {"T2-to-T1": 1.0, "T1-to-T2": 2.0}


def test_models_are_logged_once_and_anew_where_what_goes_with_them_has_changed(log):
    bare = {"T1": {"to": "T1"}, "T2": {"to": "T2"}}
    calibrated = {"T1": bare["T1"], "T2": {"uncertainty": {"sums": (0.0, 0.25)}, "to": "T2"}}
    assert log(bare) == BOTH and log(bare) == {}
    assert log(calibrated) == BOTH
    as_json_has_it = {"T2": {"to": "T2", "uncertainty": {"sums": [0.0, 0.25]}}, "T1": bare["T1"]}
    assert log(as_json_has_it) == {}
    assert log(as_json_has_it, register_as="mine") == BOTH and log(as_json_has_it, register_as="mine") == {}
    assert log(as_json_has_it, "latest") == dict.fromkeys(BOTH)  # whose score is not the best's


def test_without_mlflow_nothing_is_exported(tmp_path):
    model = SimpleNamespace(contrasts=("T1", "T2"), translators={"T2": nn.Identity()})
    tracker = SimpleNamespace(call=lambda what, ask: None)
    options = {"checkpoint": "best", "step": 1, "best_scores": {}, "register_as": None}
    assert logged_models.log_models(tracker, model, {}, tmp_path / "models.json", **options) == {}
