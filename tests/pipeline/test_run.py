import csv
import hashlib
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import mlflow_store
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from small_run import latest, phantom_run, without_pictures, workshop

from pipeline.reporting.viewer import is_fetched

DIRECTIONS = ("T1_to_T2", "T2_to_T1")
SYSTEMS = {"model", "copy", "histogram matching", "context lookup", "lookup"}


class RunContext:
    """What one sitting of the run printed, and what MLflow had after it."""

    def __init__(self, folder, code, printed, errors, store):
        from mlflow import MlflowClient

        self.code, self.printed, self.errors = code, printed, errors
        self.client = MlflowClient(store)
        (experiment,) = [item for item in self.client.search_experiments() if item.name == "contrast-translation"]
        self.runs = self.client.search_runs([experiment.experiment_id])
        self.run = self.runs[0]
        self.points = {
            key: [(point.step, point.value) for point in self.client.get_metric_history(self.run.info.run_id, key)]
            for key in self.run.data.metrics
        }
        self.versions = {
            model.name: [int(version.version) for version in self.client.search_model_versions(f"name='{model.name}'")]
            for model in self.client.search_registered_models()
        }
        self.weights = hashlib.sha256((folder / "checkpoints" / "latest.pt").read_bytes()).hexdigest()
        self.metrics = (folder / "metrics.jsonl").read_text()
        self.artifacts = sorted(file.path for file in self.client.list_artifacts(self.run.info.run_id))
        self.images = sorted(
            tuple(file.path.removeprefix("images/").split("+")[:3:2])
            for file in self.client.list_artifacts(self.run.info.run_id, "images")
            if file.path.endswith(".png")
        )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """The folder where the command is typed, with an MLflow store of its own."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_store.fresh_store(folder))
        patch.chdir(folder)
        yield folder


def sit(workspace, *overrides):
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as errors:
        code = phantom_run(Path("runs/tiny"), *overrides, quiet=False)
    store = f"sqlite:///{workspace / 'mlflow.db'}"
    return RunContext(workspace / "runs" / "tiny", code, printed.getvalue(), errors.getvalue(), store)


@pytest.fixture(scope="module")
def first(workspace):
    return sit(workspace)


@pytest.fixture(scope="module")
def second(workspace, first):
    with without_pictures():
        return sit(workspace)


@pytest.fixture
def folder(workspace, first):
    return workspace / "runs" / "tiny"


# ── the files ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_from_nothing_succeeds_and_leaves_everything_in_its_folder(first, folder):
    assert first.code == 0
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "checkpoints", "config.yaml", "curves.png", "metrics.jsonl", "mlflow.json", "models.json", "mosaics",
        "report.html", "run.json", "samples", "scores.csv", "scores.json", "scores_by_subject.csv", "split.json",
        "tracking.jsonl", "training_T1_to_T2.gif", "training_T2_to_T1.gif", "translated", "uncertainty.json",
        "uncertainty.png",
    }  # fmt: skip
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"latest.pt", "previous.pt", "best.pt"}


def test_the_gifs_show_the_untrained_networks_and_then_an_epoch_a_frame(first, folder):
    for direction in DIRECTIONS:
        with Image.open(folder / f"training_{direction}.gif") as gif:
            assert gif.n_frames == 3  # untrained, epoch 1, epoch 2
            assert min(gif.size) > 100


def test_the_scores_hold_every_system_in_every_protocol_and_direction(first, folder):
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert {row["protocol"] for row in rows} == {"own", "syndiff", "selfrdb", "reggan", "uncertainty"}
    assert {row["system"] for row in rows if row["protocol"] == "uncertainty"} == {"model"}  # the others have none
    for protocol in {row["protocol"] for row in rows} - {"uncertainty"}:
        for pair in (("T1", "T2"), ("T2", "T1")):
            scores = [row for row in rows if row["protocol"] == protocol and (row["source"], row["target"]) == pair]
            assert {row["system"] for row in scores} == SYSTEMS
    own = {(row["unit"], row["region"], row["metric"]) for row in rows if row["protocol"] == "own"}
    metrics = ("mae", "nrmse", "psnr", "ssim")
    regions = ("image", "foreground")
    plain = {(unit, region, name) for unit in ("slice", "volume") for region in regions for name in metrics}
    structure = {("volume", "foreground", metric) for metric in ("nmi", "slice_ratio", "calibrated_psnr")}
    tissues = {("volume", "interior", metric) for metric in ("dice", "dice_dark", "dice_middle", "dice_bright")}
    labels = {figure for figure in own if figure[1].startswith("tissue/")}  # the phantom's own
    assert {("volume", f"tissue/{label}", "psnr") for label in ("2", "4", "outside")} <= labels
    assert own - labels == plain | structure | tissues | {("volume", "image", "haarpsi")}
    whole = json.loads((folder / "scores.json").read_text())
    assert (whole["paired"], whole["failures"]) == (True, {})
    assert len(whole["summary"]) == len(rows)


def test_the_table_on_the_terminal_shows_the_figures_of_the_files(first, folder):
    rows = csv.DictReader((folder / "scores.csv").open())
    score = ("T1", "T2", "own", "volume", "foreground", "psnr")
    keys = ("source", "target", "protocol", "unit", "region", "metric")
    figures = {row["system"]: f"{float(row['mean']):.2f}" for row in rows if tuple(row[key] for key in keys) == score}
    lines = [line for line in first.printed.splitlines() if line.startswith("T1 → T2")][: len(SYSTEMS)]
    assert figures.keys() == SYSTEMS
    assert all(f" {figures[system]} " in next(line for line in lines if f"  {system} " in line) for system in SYSTEMS)


def test_every_test_volume_is_translated_on_its_own_grid_with_a_mosaic_beside_it(first, folder):
    (subject,) = json.loads((folder / "split.json").read_text())["test"]
    written = sorted(path.name for path in (folder / "translated").iterdir())
    assert written == [f"{subject}_T1_to_T2.nii.gz", f"{subject}_T2_to_T1.nii.gz"]
    for source, target in (("T1", "T2"), ("T2", "T1")):
        (original,) = (nib.load(path) for path in (workshop() / "phantom").rglob(f"{subject}_{source}.nii.gz"))
        made = nib.load(folder / "translated" / f"{subject}_{source}_to_{target}.nii.gz")
        assert made.shape == original.shape
        np.testing.assert_array_equal(made.affine, original.affine)
        assert made.header.get_xyzt_units() == original.header.get_xyzt_units()
        assert b"not for clinical use" in made.header["descrip"].tobytes()
        assert np.ptp(made.get_fdata()) > 0
        with Image.open(folder / "mosaics" / f"{subject}_{source}_to_{target}.png") as mosaic:
            assert min(mosaic.size) > 100


def test_the_report_names_the_subjects_and_asks_nothing_of_the_network(first, folder):
    page = (folder / "report.html").read_text()
    split = json.loads((folder / "split.json").read_text())
    assert all(subject in page for subject in split["test"] + split["train"]["T1"])
    assert "data:image/gif" not in page and page.count("data:image/webp") == 4  # two animations, curves, maps
    assert "default-src 'none'" in page and 'src="http' not in page and "<script src" not in page
    assert page.count("\n  <script") == (3 if is_fetched() else 0)  # the viewer's volumes, NiiVue and ours
    assert ("phantom" in page.partition('class="viewer-data">')[2].partition("</script>")[0]) is is_fetched()


def test_the_report_says_what_the_generators_start_from(first, folder):
    page = (folder / "report.html").read_text()
    for to in ("T1", "T2"):
        assert f"<dt>generator to {to} starts from</dt><dd>the context lookup; a translation is " in page


def test_the_last_lines_say_where_everything_is(first):
    *_, done, report, training, translated, tracking = first.printed.strip().splitlines()
    assert done.startswith("trained 8 steps and evaluated in ")
    assert report.split() == ["report", "runs/tiny/report.html", "(open", "it", "in", "a", "browser)"]
    assert training.split() == ["training", "runs/tiny/training_T1_to_T2.gif,", "runs/tiny/training_T2_to_T1.gif"]
    assert translated.startswith("  translated  runs/tiny/translated/   (NIfTI")
    assert "mlflow ui" in tracking and first.run.info.run_id in tracking


def test_a_run_and_its_repetition_fit_on_a_screen_each(first, second):
    for context in (first, second):
        assert len(context.printed.splitlines()) <= 40
        assert len(context.errors.splitlines()) <= 10  # warnings with their remedies; no bar
        assert "%|" not in context.errors and "\r" not in context.errors
    for kept in ("training phantom: cyclegan, 2 epochs of 4 steps", "histogram matching", "lookup", "report.html"):
        assert kept in first.printed
    assert "The protocols of syndiff, selfrdb, reggan have their tables in report.html and scores.csv." in first.printed
    assert "training is complete; evaluating again" in second.printed
    assert "nothing was left to train after step 8; evaluated and reported in " in second.printed


# ── MLflow ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_mlflow_holds_the_run_finished_with_its_settings(first):
    assert len(first.runs) == 1
    assert (first.run.info.status, first.run.info.run_name) == ("FINISHED", "phantom")
    assert first.run.data.params["training.steps_per_epoch"] == "4"
    assert first.run.data.params["contrasts"] == "['T1', 'T2']"
    assert (first.run.data.tags["data"], first.run.data.tags["method"]) == ("phantom", "cyclegan")
    assert "| T2 → T1, n = 1 |" in first.run.data.tags["mlflow.note.content"]  # the page's description


def test_mlflow_has_the_losses_of_every_step_and_the_scores_of_every_epoch(first):
    losses = [key for key in first.points if key.startswith("train/")]
    assert {
        "train/cycle_a",
        "train/cycle_b",
        "train/learning_rate_generators",
        "train/learning_rate_discriminators",
    } <= set(losses)
    assert all([step for step, _ in first.points[key]] == list(range(1, 9)) for key in losses)
    rates = [value / 0.0002 for _, value in first.points["train/learning_rate_generators"]]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    for direction in DIRECTIONS:
        for metric in ("psnr", "ssim"):
            assert [step for step, _ in first.points[f"validation/{direction}/{metric}"]] == [0, 4, 8]
    assert [step for step, _ in first.points["validation/score"]] == [0, 4, 8]


def test_mlflow_has_the_test_scores_of_the_table(first, folder):
    rows = csv.DictReader((folder / "scores.csv").open())
    inside = (("volume", "foreground"), ("volume", "interior"))  # all that is kept of the baselines
    scores = [row for row in rows if row["system"] == "model" or (row["unit"], row["region"]) in inside]
    assert {"nmi", "slice_ratio", "dice", "dice_bright"} <= {row["metric"] for row in scores if row["system"] == "copy"}
    finite = [row for row in scores if row["mean"] not in ("nan", "inf")]
    logged = {key: points for key, points in first.points.items() if key.startswith(("test/", "without_training/"))}
    assert len(logged) == len(finite)
    for row in finite:
        name = f"{row['protocol']}/{row['unit']}_{row['region']}_{row['metric']}"
        direction, system = f"{row['source']}_to_{row['target']}", row["system"].replace(" ", "_")
        key = f"{'test' if system == 'model' else 'without_training'}/{direction}/{system}/{name}"
        assert logged[key] == [(8, pytest.approx(float(row["mean"])))]


def test_mlflow_has_the_pictures_of_every_epoch_from_the_untrained_network_on(first):
    assert first.images == sorted((f"samples~{direction}", str(step)) for direction in DIRECTIONS for step in (0, 4, 8))


def test_mlflow_has_the_data_and_the_artifacts(first):
    inputs = {(item.dataset.name, item.tags[0].value) for item in first.run.inputs.dataset_inputs}
    assert inputs == {("T1", "train"), ("T2", "train"), ("validation", "validation"), ("test", "test")}
    assert {
        "config.yaml", "split.json", "report.html", "scores.csv", "scores.json", "curves.png", "mosaics",
        "training_T1_to_T2.gif", "training_T2_to_T1.gif", "subject_scores.json",
    } <= set(first.artifacts)  # fmt: skip


def test_mlflow_has_both_directions_as_models_registered_as_the_best(first, folder):
    assert first.versions == {"phantom-T1-to-T2": [1], "phantom-T2-to-T1": [1]}
    for name in first.versions:
        assert int(first.client.get_model_version_by_alias(name, "best").version) == 1
    noted = json.loads((folder / "models.json").read_text())
    assert noted["models"] == {"T1": "models:/phantom-T2-to-T1@best", "T2": "models:/phantom-T1-to-T2@best"}


def test_the_registered_model_translates_as_the_run_did(first, folder, tmp_path):
    from pipeline.translate import main

    (subject,) = json.loads((folder / "split.json").read_text())["test"]
    (source,) = (workshop() / "phantom").rglob(f"{subject}_T1.nii.gz")
    out = tmp_path / "out.nii.gz"
    assert main(["-i", str(source), "-o", str(out), "--model", "models:/phantom-T1-to-T2@best", "--quiet"]) == 0
    ours = nib.load(folder / "translated" / f"{subject}_T1_to_T2.nii.gz").get_fdata()
    np.testing.assert_allclose(nib.load(out).get_fdata(), ours, atol=1)


# ── again ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_running_it_again_trains_nothing_and_leaves_the_weights_alone(first, second, folder):
    assert second.code == 0
    assert (second.weights, second.metrics) == (first.weights, first.metrics)
    assert latest(folder)["position"]["step"] == 8


def test_running_it_again_logs_nothing_twice(first, second):
    assert [run.info.run_id for run in second.runs] == [first.run.info.run_id]
    assert second.run.info.status == "FINISHED"
    ours = {key: points for key, points in second.points.items() if not key.startswith("system/")}
    assert ours == {key: points for key, points in first.points.items() if not key.startswith("system/")}
    assert (second.images, second.versions) == (first.images, first.versions)
    assert len(second.run.inputs.dataset_inputs) == 4
    assert len(second.run.outputs.model_outputs) == 2


def test_another_configuration_on_the_same_folder_is_refused_by_its_key_at_once(first, folder, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.mlflow_settings.configure_mlflow", pytest.fail)  # slow imports follow it
    weights = (folder / "checkpoints" / "latest.pt").read_bytes()
    assert phantom_run(folder, "training.learning_rate=0.1") == 2
    output = capsys.readouterr().err
    assert "holds a run of another configuration" in output
    assert "training.learning_rate: 0.0002 there, 0.1 now" in output
    assert (folder / "checkpoints" / "latest.pt").read_bytes() == weights
