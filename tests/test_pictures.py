"""The documentation's pictures: the right pages are opened, phantoms only, and what is missing is named."""

import importlib.util
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
MLFLOW = "http://127.0.0.1:5000/#"


class Page:
    """Stands in for a browser's page: notes what it is led to, and keeps an empty picture."""

    def __init__(self):
        self.opened = []

    def __getattr__(self, name):
        return lambda *_, **__: None

    def goto(self, address):
        if address != "about:blank":
            self.opened.append(address)

    def get_by_text(self, *_, **__):
        return SimpleNamespace(count=lambda: 0)

    def screenshot(self, path, **_):
        path.touch()


@pytest.fixture
def pictures(monkeypatch):
    specification = importlib.util.spec_from_file_location("_pictures", ROOT / "docs" / "_pictures.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module.explore, "main", lambda arguments: 0)
    monkeypatch.setattr(module, "experiment_of", lambda run: "7")
    return module


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run in a folder of its own, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "phantom"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("a report")
    (folder / "config.yaml").write_text("data: {source: phantom}")
    (folder / "models.json").write_text(json.dumps({"models": {"T2": "models:/phantom T1-to-T2@best"}}))
    (folder / "mlflow.json").write_text(json.dumps({"run_id": "abc"}))
    return folder


def test_every_page_is_opened_and_kept_as_a_picture_that_the_documentation_shows(pictures, run, monkeypatch):
    page = Page()
    monkeypatch.setattr(pictures, "opened_browser", lambda: nullcontext(page))
    sweep = run.parent / "sweep"
    sweep.mkdir()
    (sweep / "compare.json").write_text(json.dumps({"runs": [{"folder": str(run), "mlflow_run_id": "abc"}]}))
    assert pictures.main([str(run), "--sweep", str(sweep), "-o", "."]) == 0
    report, explored, model, opened, compared = (address.split("?")[0] for address in page.opened)
    assert report == (run / "report.html").as_uri() and explored.endswith("/explore.html")
    assert model == f"{MLFLOW}/models/phantom%20T1-to-T2"
    assert opened == f"{MLFLOW}/experiments/7/runs/abc"
    assert compared == (sweep / "compare.html").as_uri()
    made = {path.name for path in Path().glob("*.jpg")}
    assert len(made) == 5 and made <= {path.name for path in (ROOT / "docs").glob("*.jpg")}


def test_a_sweep_that_shows_people_is_refused(pictures, run, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "opened_browser", lambda: nullcontext(Page()))
    (run.parent / "compare.json").write_text(json.dumps({"runs": [{"folder": "elsewhere", "mlflow_run_id": "abc"}]}))
    assert pictures.main([str(run), "--sweep", str(run.parent), "-o", "."]) == 2
    assert "elsewhere: holds no finished run" in capsys.readouterr().err


def test_what_is_missing_is_one_line_and_exit_code_2(pictures, run, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert pictures.main([str(run)]) == 2
    assert capsys.readouterr().err == (
        "error: Chromium: not found, so no pictures can be made; install it (apt-get install chromium)\n"
    )
    assert pictures.main(["runs/none"]) == 2
    assert "runs/none: holds no finished run; `make demo` does one" in capsys.readouterr().err
    (run / "config.yaml").write_text("data: {source: nifti}")
    assert pictures.main([str(run)]) == 2
    assert "its data is nifti; pictures in the documentation show phantoms only" in capsys.readouterr().err
