import json
import math
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_run import QUICK, phantom_run, without_pictures

from pipeline.config.load import load_config
from pipeline.data.case import Case
from pipeline.data.pairs import PreparedScan, View
from pipeline.evaluation import uncertainty_fit, uncertainty_scores
from pipeline.evaluation.uncertainty_scores import calibrate
from pipeline.inference.model import load_model
from pipeline.inference.uncertainty import Calibration, UncertaintySources
from pipeline.inference.uncertainty_calibration import load_uncertainty, published_calibration, write_calibrations
from pipeline.run_config import save_config
from pipeline.runs.folder import RunFolder
from pipeline.sync import _send_models
from pipeline.utils.errors import UserError
from transforms.slice_chain import PreprocessSettings

SHORT = (*QUICK, "training.steps_per_epoch=1", "training.decay_epochs=0", "evaluation.translate=false")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    assert phantom_run(folder, *SHORT) == 0
    return folder


def test_a_run_calibrates_on_validation_subjects_and_says_how_well_it_went_on_test_subjects(run):
    content = json.loads((run / "uncertainty.json").read_text())
    assert set(content["directions"]) == {"T1", "T2"} and content["reason"] == ""
    assert content["directions"]["T1"]["run"]["subjects"] == 1
    scores = json.loads((run / "scores.json").read_text())
    rows = {
        row["metric"]: row for row in scores["summary"] if row["protocol"] == "uncertainty" and row["target"] == "T2"
    }
    assert set(rows) == {"spearman", "expected_error", "observed_error", "calibration_error"}
    assert rows["spearman"]["n"] == 1 and all(math.isfinite(row["mean"]) for row in rows.values())
    assert 'id="uncertainty"' in (run / "report.html").read_text()
    assert (run / "uncertainty.png").stat().st_size > 10_000


def test_the_calibration_is_found_from_the_folder_and_its_checkpoints_and_for_these_weights_alone(run):
    for uri in (run, run / "checkpoints", run / "checkpoints" / "best.pt"):
        model = load_model(uri, "cpu")
        assert load_uncertainty(str(uri), model, "T2").calibration.voxels > 100
    with pytest.raises(UserError, match=r"was calibrated for other weights than these.*evaluate it again: python -m"):
        next(model.translators["T1"].parameters()).add_(1.0)
        load_uncertainty(str(run), model, "T2")


def test_without_validation_subjects_or_when_switched_off_the_reason_is_kept(run, tmp_path):
    model = load_model(run, "cpu")
    assert calibrate([], model, {}, reader=None, batch_size=1) == (
        {},
        "split.validation is 0, so there was nobody to calibrate on",
    )
    expected = [Case("s", "", "T1", tmp_path)]
    assert calibrate(expected, model, {}, reader=None, batch_size=1)[1] == "no validation subject has both contrasts"
    copytree(run, tmp_path / "run")
    write_calibrations(RunFolder(tmp_path / "run"), model, {}, {}, reason="evaluation.uncertainty is false")
    with pytest.raises(UserError, match=r"was not calibrated: evaluation\.uncertainty is false; leave --uncertainty"):
        load_uncertainty(str(tmp_path / "run"), model, "T2")


def test_a_run_that_was_never_calibrated_says_how_it_is(run, tmp_path):
    (tmp_path / "best.pt").write_bytes((run / "checkpoints" / "best.pt").read_bytes())
    model = load_model(tmp_path / "best.pt", "cpu")
    with pytest.raises(UserError, match=r"best.pt: has no uncertainty.json.*repeat its pipeline.run"):
        load_uncertainty(str(tmp_path / "best.pt"), model, "T2")
    (tmp_path / "uncertainty.json").write_text("{")
    with pytest.raises(UserError, match="damaged, or of another version"):
        load_uncertainty(str(tmp_path / "best.pt"), model, "T2")


def test_what_was_calibrated_for_the_latest_checkpoint_is_found_from_the_folder(run, tmp_path):
    folder = RunFolder(copytree(run, tmp_path / "run"))
    content = torch.load(folder.checkpoints.latest, weights_only=True)
    content["translators"]["T2"] = {name: weight + 1 for name, weight in content["translators"]["T2"].items()}
    torch.save(content, folder.checkpoints.latest)
    config = load_config(folder.config, ["evaluation.checkpoint=latest"])
    save_config(folder, config)
    model, flat = load_model(folder.checkpoints.latest, "cpu"), Calibration(0.0, 1.0, (0.0,), (((0.25,),),))
    others = {"best": load_model(folder.checkpoints.best, "cpu")}
    write_calibrations(folder, model, others, {"T2": {"run": flat}})
    assert load_uncertainty(str(folder.path), load_model(folder.path, "cpu"), "T2").calibration == flat


def test_evaluated_again_the_test_subjects_play_no_part_and_what_is_sent_later_is_the_same(run, monkeypatch):
    names, fitted, logged = [], [], []
    read, fit = uncertainty_scores._SliceSubset.__init__, uncertainty_fit.fit_calibration

    def noted(subset, view, model, to, batch_size, name):
        names.append(name)
        read(subset, view, model, to, batch_size, name)

    def noted_fit(*more):
        fitted.append(list(names))
        return fit(*more)

    monkeypatch.setattr(uncertainty_scores._SliceSubset, "__init__", noted)
    monkeypatch.setattr(uncertainty_fit, "fit_calibration", noted_fit)
    for module in ("finish", "logged_models"):
        monkeypatch.setattr(
            f"pipeline.evaluation.{module}.log_models", lambda *arguments, **_: logged.append(arguments[2])
        )
    with without_pictures():
        assert phantom_run(run, *SHORT) == 0

    # The calibration has seen the validation subject alone.
    split = json.loads((run / "split.json").read_text())
    assert all(split["validation"][0] in name for name in fitted[-1]) and len(fitted[-1]) == 2
    assert all(split["test"][0] in name for name in names[2:]) and len(names) == 4

    # The models that are sent to MLflow later have the metadata that they had at the run's end.
    _send_models(SimpleNamespace(folder=run, status="FINISHED"))
    at_the_end, later = (json.dumps(metadata, sort_keys=True) for metadata in logged)
    assert later == at_the_end
    expected = json.loads((run / "uncertainty.json").read_text())["directions"]["T2"]["alone"]
    assert logged[1]["T2"]["uncertainty"] == expected
    model = load_model(run, "cpu")
    next(model.translators["T1"].parameters()).add_(1.0)
    assert published_calibration(RunFolder(run), model, "T2") == {}  # of other weights


def test_a_published_model_without_calibration_has_a_remedy_of_its_own(run):
    for uri in ("runs:/abc/T1-to-T2", "models:/phantom-T1-to-T2@best"):
        with pytest.raises(UserError, match=f"^{uri}: was logged without a calibration.*; evaluate its run again"):
            load_uncertainty(uri, load_model(run, "cpu"), "T2")


class Smoothing(torch.nn.Module):
    """The mean of a slice and its neighbours, brightened by a number."""

    neighbours = 1

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, image):
        return image.expand(-1, 3, -1, -1).mean(dim=1, keepdim=True) + self.by


def test_some_slices_have_the_features_that_they_have_in_the_whole_volume(monkeypatch):
    slices = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 16, 16)).astype(np.float32)
    head = np.ones((20, 16, 16), bool)
    scan = PreparedScan(slices, (16, 16), head, np.eye(4), PreprocessSettings("axial", None, 16, False, None))
    networks = {"T2": Smoothing(0.1), "T1": Smoothing(-0.2)}
    model = SimpleNamespace(translators=networks, device=torch.device("cpu"), precision="float32")
    sources = UncertaintySources(networks["T2"], networks["T1"])
    features = {}
    for count in (3, 20):
        monkeypatch.setattr(uncertainty_scores, "SLICES", count)
        subset = uncertainty_scores._SliceSubset(View(scan, slices, head), model, "T2", 4, "a scan")
        translated = subset.translated()
        features[count] = (*subset.features(translated, sources), subset.errors(translated), subset.positions)
    some, (*everything, _) = features[3], features[20]
    assert some[-1].tolist() == [0, 10, 19]
    for few, all_slices in zip(some, everything, strict=False):
        np.testing.assert_allclose(few, all_slices[[0, 10, 19]], atol=1e-6)
