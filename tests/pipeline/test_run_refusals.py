import os
import subprocess
import sys

import pytest
from small_run import CONFIGS, QUICK, TINY, workshop

from pipeline.run import main


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_machine_without_ixi_is_told_the_command_that_downloads_it(workspace, capsys):
    assert main([str(CONFIGS / "ixi.yaml")]) == 2
    assert capsys.readouterr().err == (
        f"error: data/ixi: no IXI T1 or T2 volumes there (looked at {workspace}/data/ixi); download them with: "
        "python -m pipeline.download ixi -o data/ixi --contrasts T1 T2\n"
    )
    assert [path.name for path in workspace.rglob("*") if path.is_file() and path.name != ".lock"] == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.cuda_graph=true", "training.cuda_graph = true: needs a CUDA device, and there is none"),
        ("training.precision=fp16", "training.precision = fp16: needs a CUDA device, and there is none"),
    ],
)
def test_what_needs_a_gpu_is_refused_before_any_work(setting, message, workspace, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([str(CONFIGS / "phantom.yaml"), *TINY, "device=auto", "method.r1_weight=0", setting]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (workspace / "data").exists()


def test_a_split_that_does_not_fit_is_refused_before_heads_are_made(workspace, capsys):
    for setting, message in (("split.file=none.json", "none.json: cannot be read"), ("split.test=9", "split.test")):
        assert main([str(CONFIGS / "phantom.yaml"), *TINY, setting]) == 2
        assert message in capsys.readouterr().err
        assert not (workspace / "data").exists()


def test_a_plan_warns_of_what_the_run_would_refuse(workspace, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = ("device=auto", "training.cuda_graph=true", "method.r1_weight=0", "--dry-run")
    assert main([str(CONFIGS / "phantom.yaml"), *TINY, *settings]) == 0
    assert "warning: training.cuda_graph = true: needs a CUDA device" in capsys.readouterr().err


def test_a_run_reports_nothing_to_mlflows_makers(workspace):
    ask = "import pipeline.run; from mlflow.telemetry import get_telemetry_client; print(get_telemetry_client())"
    private = ("CI", "DO_NOT_TRACK", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST")  # each would silence MLflow by itself
    quiet = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_") and key not in private}
    environment = {**quiet, "PYTHONPATH": str(CONFIGS.parent)}
    command = [sys.executable, "-c", ask]
    result = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "None\n"), result.stderr


@pytest.mark.parametrize("key", ["data.folder", "preprocess.store", "output"])
def test_a_folder_that_cannot_be_made_is_one_line_that_names_it(key, workspace, capsys):
    shared = {
        "data.folder": workshop() / "phantom",
        "preprocess.store": workspace / "store",
        "output": workspace / "run",
    }
    places = [f"{name}={value}" for name, value in (shared | {key: "/proc/nope"}).items()]
    assert main([str(CONFIGS / "phantom.yaml"), *TINY, *QUICK, *places, "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: /proc/nope") and "cannot be written (" in line
