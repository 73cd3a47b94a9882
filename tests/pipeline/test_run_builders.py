"""That what a configuration says reaches what a run trains and evaluates with."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_run import CONFIGS

from pipeline import run_builders
from pipeline.config.load import load_config
from pipeline.data.splits import CohortSplit
from pipeline.data_builders import schedule_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData


@pytest.mark.parametrize(("weight", "is_held"), [("0", False), ("30", True)])
def test_the_monitor_knows_whether_translations_are_held_near_their_start(weight, is_held, tmp_path):
    config = load_config(CONFIGS / "nifti.yaml", [f"data.folder={tmp_path}", f"method.lookup_weight={weight}"])
    schedule = schedule_of(config.training, slices=10)
    tracker = SimpleNamespace(set_tags=lambda tags: None)
    monitor = run_builders.build_failure_monitor(config, RunFolder(tmp_path), schedule, tracker)
    assert monitor.held_near_start is is_held


@pytest.mark.parametrize("setting", ["skip", "stop"])
def test_bad_volumes_stop_validation_and_evaluation_as_configured(setting, tmp_path, monkeypatch):
    config = load_config(CONFIGS / "nifti.yaml", [f"data.folder={tmp_path}", f"preprocess.on_bad_volume={setting}"])
    monkeypatch.setattr(run_builders, "Validation", lambda *_, cache, **__: cache.on_bad_volume)
    monkeypatch.setattr(run_builders, "evaluate_run", lambda *_, on_bad_volume, **__: on_bad_volume)
    monkeypatch.setattr(run_builders, "cohort", lambda *_: None)
    split = CohortSplit({"T1": (), "T2": ()}, (), ())
    statistics = {name: SimpleNamespace(histogram=np.ones(4)) for name in ("T1", "T2")}
    prepared = PreparedData((), split, {"T1": [], "T2": []}, statistics, {})
    monkeypatch.setattr(PreparedData, "histograms", {"T1": [], "T2": []})
    monkeypatch.setattr(run_builders, "SliceBank", lambda *_: None)
    monkeypatch.setattr(run_builders, "precision_on", lambda *_: "float32")
    prepared.stored.update({name: [SimpleNamespace(case=None)] for name in ("T1", "T2")})
    assert run_builders.build_validation(config, prepared, None, None, quiet=True) == setting
    assert run_builders.evaluate_model(config, None, None, prepared, None, quiet=True) == setting
