"""The documentation's pictures: the right pages are opened, phantoms only, and what is missing is named."""

import importlib.util
import json
import sys
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


class Page:
    """Stands in for a browser's page: notes what it is led to, and shows a grey ramp."""

    def __init__(self):
        self.opened = []

    def __getattr__(self, name):
        return lambda *_, **__: None

    def goto(self, address):
        self.opened.append(address)

    def get_by_text(self, *_, **__):
        return SimpleNamespace(count=lambda: 0)

    def screenshot(self):
        stream = BytesIO()
        Image.linear_gradient("L").save(stream, format="PNG")
        return stream.getvalue()


@pytest.fixture
def pictures():
    specification = importlib.util.spec_from_file_location("_pictures", ROOT / "docs" / "_pictures.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
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
    return folder


def test_every_page_is_opened_and_kept_as_a_small_picture(pictures, run, monkeypatch):
    page = Page()
    monkeypatch.setattr(pictures, "opened_browser", lambda path: nullcontext(page))
    monkeypatch.setattr(pictures, "explore", lambda run, folder: folder / "explore.html")
    (run / "mlflow.json").write_text(json.dumps({"uri": "http://server"}))
    assert pictures.main([str(run), "-o", ".", "--browser", sys.executable]) == 0
    report, explored, model = (address.split("?")[0] for address in page.opened)
    assert report == (run / "report.html").as_uri() and explored.endswith("/explore.html")
    assert model == "http://server/#/models/phantom%20T1-to-T2"
    assert sorted(path.name for path in Path().glob("*.jpg")) == ["exploration.jpg", "mlflow_model.jpg", "report.jpg"]
    with Image.open("report.jpg") as image:
        assert image.format == "JPEG" and image.width == 256


def test_a_picture_loses_quality_until_it_is_small(pictures, tmp_path):
    ramp = Image.linear_gradient("L").resize((2000, 2000)).convert("RGB")
    assert pictures.save_jpeg(ramp, tmp_path / "a.jpg") < pictures.MOST_BYTES
    pictures.MOST_BYTES = 1
    assert pictures.save_jpeg(ramp, tmp_path / "b.jpg") < (tmp_path / "a.jpg").stat().st_size


def test_what_is_missing_is_one_line_and_exit_code_2(pictures, run, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert pictures.main([str(run)]) == 2
    assert capsys.readouterr().err == (
        "error: Chromium: not found, so no pictures can be made; install it (apt-get install chromium)\n"
    )
    browser = ["--browser", sys.executable]
    assert pictures.main(["runs/none", *browser]) == 2
    assert "runs/none: holds no finished run; `make demo` does one" in capsys.readouterr().err
    (run / "config.yaml").write_text("data: {source: nifti}")
    assert pictures.main([str(run), *browser]) == 2
    assert "its data is nifti; pictures in the documentation show phantoms only" in capsys.readouterr().err
