import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow_store
import numpy as np
import pytest
from finished_runs import finished_run, read_runs
from small_run import CONFIGS, QUICK, SHORT, finished_phantom, phantom_run, without_pictures

from pipeline.compare import main
from pipeline.comparison import figure
from pipeline.evaluation.translation_writer import translate_scan
from pipeline.inference.model import load_model
from pipeline.sync import main as sync

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The folder of two runs that really trained; one's networks take other sizes than the other's."""
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(finished_phantom(), folder / "a")
    with without_pictures():
        other = ("name=b", "generator.depth=4", "evaluation.uncertainty=false")
        assert phantom_run(folder / "b", *QUICK, *SHORT, *other) == 0
    return folder


def test_two_runs_become_a_page_with_a_figure_and_files(real, workspace, capsys):
    assert main([str(real / "a"), str(real / "b"), "-o", "out/both.html", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "T1 → T2" in printed.out and "MLflow      off" in printed.out
    assert sorted(path.name for path in (workspace / "out").iterdir()) == [
        "both.csv", "both.html", "both.json",
    ]  # fmt: skip
    page = (workspace / "out" / "both.html").read_text()
    assert "phantom: easier than real data" in page and 'id="pictures"' in page
    assert not (workspace / "mlflow.db").exists()
    costs = {run["label"]: run for run in json.loads((workspace / "out" / "both.json").read_text())["runs"]}
    assert costs["a"]["steps"] == 1 and costs["a"]["seconds_per_step"] > 0
    assert costs["a"]["translator_parameters"] < costs["b"]["translator_parameters"]


def test_slices_are_those_that_the_evaluation_translated(real, monkeypatch):
    calls = {}
    monkeypatch.setattr(figure, "side_by_side", lambda rows, methods, **_: calls.update(rows=rows, methods=methods))
    runs = read_runs([real / "a", real / "b"])
    figure.draw_slices(runs, quiet=True)
    assert calls["methods"] == ["a", "b"] and len(calls["rows"]) == 2
    (pair,) = figure.pairs_of_test(runs[0])
    for run in runs:
        model = load_model(run.folder, "cpu")
        there, _ = figure.views_of(runs[0], pair, model)
        whole = there.source.unpadded(translate_scan(there.source, "T2", model, batch_size=8))
        index = int(there.foreground.sum(axis=(1, 2)).argmax())
        made, caption = calls["rows"][0].translations[run.label]
        np.testing.assert_allclose(made, whole[index], atol=1e-5)
        np.testing.assert_array_equal(calls["rows"][0].real, there.real[index])
        inside = there.foreground[index]
        error = np.mean((made[inside].astype(float) - there.real[index][inside]) ** 2)
        assert caption == f"{10 * np.log10(4 / error):.2f} dB"


def test_where_the_data_has_gone_the_comparison_is_made_without_its_figure(workspace, capsys):
    folders = [str(finished_run(workspace, name)) for name in ("a", "b")]
    assert main(folders) == 0
    printed = capsys.readouterr()
    assert "the comparison is without its figure" in printed.err
    assert "#pictures" not in (workspace / "compare.html").read_text()


def test_a_phantom_that_has_gone_is_not_made_anew_for_the_figure(real, workspace, capsys):
    for name in ("a", "b"):
        shutil.copytree(real / name, workspace / name)
        config = workspace / name / "config.yaml"
        config.write_text(re.sub(r"folder: \S*phantom", "folder: gone", config.read_text()))
    assert main(["a", "b", "--quiet"]) == 0
    output = "gone: the test subjects' images are no longer there; the comparison is without its figure"
    assert capsys.readouterr().err == f"warning: {output}\n"
    assert not (workspace / "gone").exists()


def test_the_figure_finds_registrations_where_evaluation_kept_them_and_makes_no_store(workspace, monkeypatch):
    caches = []

    class Reader:
        def __init__(self, *_, registrations, **__):
            caches.append(registrations)

        def read(self, _):
            return None, None, None

    monkeypatch.setattr(figure, "PairReader", Reader)
    run, _ = read_runs(
        [finished_run(workspace, name, settings={"preprocess": {"store": "store"}}) for name in ("a", "b")]
    )
    kept = Path("store/registrations")
    figure.views_of(run, None, SimpleNamespace(settings={}, stride=16))
    assert not caches[0].exists() and not kept.parent.exists()
    kept.mkdir(parents=True)
    figure.views_of(run, None, SimpleNamespace(settings={}, stride=16))
    assert caches[1] == kept


def test_an_experiment_is_compared_whole(workspace, capsys):
    for name in ("a", "b", "c"):
        finished_run(workspace / "runs", name)
    assert main(["--experiment", "trial"]) == 0
    assert "Comparison of 3 runs" in (workspace / "compare.html").read_text()


def test_runs_that_must_not_be_compared_leave_no_page(workspace, capsys):
    folders = [finished_run(workspace, "a"), finished_run(workspace, "b", settings={"preprocess": {"size": 128}})]
    assert main([str(folder) for folder in folders]) == 2
    assert "preprocess.size: 256 in" in capsys.readouterr().err
    assert not (workspace / "compare.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run to compare"),
        (["a", "-o", "out.pdf"], "out.pdf: the comparison is a page; give -o a name that ends in .html"),
    ],
)
def test_bad_input_is_one_clear_message(workspace, capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("door", ["compare", "sweep"])
def test_bad_input_is_said_before_the_slow_imports(workspace, door):
    finished_run(workspace, "a")
    finished_run(workspace, "b", settings={"preprocess": {"size": 128}})
    arguments = ["a", "b"] if door == "compare" else [str(CONFIGS / "phantom.yaml"), "nowhere.yaml"]
    command = [sys.executable, "-X", "importtime", "-m", f"pipeline.{door}", *arguments]
    process = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 2
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in process.stderr.splitlines()}
    assert "yaml" in loaded
    assert loaded & {"torch", "monai", "mlflow", "SimpleITK", "scipy", "skimage", "matplotlib", "nilearn"} == set()


def tracked(workspace):
    """Two runs with runs in MLflow."""
    folders = [finished_run(workspace, name, settings={"tracking": {"mlflow": True}}) for name in ("a", "b")]
    for folder in folders:
        (folder / "mlflow.json").write_text(json.dumps({"run_id": f"id of {folder.name}"}))
    return [str(folder) for folder in folders]


def test_the_comparison_is_a_run_of_its_own_in_the_runs_experiment(workspace, monkeypatch):
    from mlflow import MlflowClient

    store = mlflow_store.fresh_store(workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert main([*tracked(workspace), "-o", "both.html"]) == 0
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("trial").experiment_id])
    assert (run.info.run_name, run.info.status) == ("both", "FINISHED")
    assert run.data.tags["compared_runs"] == "id of a,id of b"
    assert (run.data.tags["compared.a"], run.data.tags["compared.b"]) == ("id of a", "id of b")
    assert run.data.metrics["test/T1_to_T2/model/own/volume_foreground_psnr"] == pytest.approx(16.0)
    assert run.data.metrics["without_training/T1_to_T2/copy/own/volume_foreground_ssim"] == pytest.approx(12.03 / 20)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"both.html", "both.csv", "both.json", "comparison_table.json"}
    assert "| b | cyclegan | 16.00 ± " in run.data.tags["mlflow.note.content"]
    assert not (workspace / "both_record").exists()


def test_a_dead_server_holds_nothing_up_and_the_record_stays_on_disk(workspace, monkeypatch, capsys):
    with mlflow_store.failing_server("closed") as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert main(tracked(workspace)) == 0
    printed = capsys.readouterr()
    assert "is not followed" in printed.err and "compare_record/metrics.jsonl has everything" in printed.err
    assert "model/own/volume_foreground_psnr" in (workspace / "compare_record" / "metrics.jsonl").read_text()
    assert (workspace / "compare.html").exists()
    store = mlflow_store.fresh_store(workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert sync([str(workspace / "compare_record")]) == 0
    assert "MLflow run" in capsys.readouterr().out
    assert (workspace / "mlruns").exists() and list((workspace / "mlruns").rglob("compare.html"))


def test_a_page_is_not_written_over_a_runs_own_files_nor_a_record_over_a_strangers(tmp_path, capsys):
    folders = [str(finished_run(tmp_path, name)) for name in ("a", "b")]
    scores = (tmp_path / "a" / "scores.json").read_bytes()
    assert main([*folders, "-o", str(tmp_path / "a" / "scores.html")]) == 2
    assert "lies in a run's folder" in capsys.readouterr().err
    assert (tmp_path / "a" / "scores.json").read_bytes() == scores
    mine = tmp_path / "page_record" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert main([*folders, "-o", str(tmp_path / "page.html")]) == 2
    assert "is in the way" in capsys.readouterr().err and mine.read_text() == "mine"
