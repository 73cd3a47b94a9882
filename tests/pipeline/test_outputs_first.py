"""A command that could not write its output says so before it reads anything."""

import os

import pytest
from small_run import CONFIGS

import pipeline.train  # noqa: F401  (imported while readers are replaced, it would keep their stand-ins)
from pipeline import compare, download, explore, run, sweep, translate
from pipeline.utils.errors import UserError
from pipeline.utils.files import require_writable


@pytest.fixture
def in_the_way(tmp_path):
    (tmp_path / "file").touch()
    return tmp_path / "file" / "below"


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch):
    """Whatever reads data, runs or models, or asks the network, fails the test."""

    def read(*_, **__):
        pytest.fail("read before its output's place was looked at")

    readers = (
        "comparison.comparison.load_runs",
        "run_builders.find_splittable_cases",
        "data_builders.find_cases",  # after those that import it
        "data.archive.fetch",
        "inference.model.load_model",
        "sweep.work_through",
    )
    for name in readers:
        monkeypatch.setattr(f"pipeline.{name}", read)


@pytest.mark.parametrize(
    ("door", "line"),
    [
        (explore, [str(CONFIGS / "phantom.yaml"), "x", "-o", "{out}"]),
        (compare, ["a", "b", "-o", "{out}/page.html"]),
        (sweep, [str(CONFIGS / "phantom.yaml"), "-o", "{out}"]),
        (download, ["ixi", "-o", "{out}"]),
        (run, [str(CONFIGS / "phantom.yaml"), "output={out}", "tracking.mlflow=false"]),
        (translate, ["-i", "{volume}", "-o", "{out}", "--model", "{folder}", "--to", "T2"]),
        (translate, ["-i", "{volume}", "-o", "{folder}/o", "--summary", "{out}/s.json", "--model", "m", "--to", "T2"]),
    ],
)
def test_a_place_that_cannot_be_written(door, line, in_the_way, tmp_path, capsys):
    (tmp_path / "a.nii").touch()
    names = {"out": in_the_way, "volume": tmp_path / "a.nii", "folder": tmp_path}
    arguments = [part.format(**names) for part in line if part != "x"]
    assert door.main(arguments) == 2
    message = capsys.readouterr().err
    assert "cannot be" in message and message.count("\n") == 1 and str(in_the_way) in message


def test_a_folder_where_the_page_is_to_be(tmp_path, capsys):
    (tmp_path / "page" / "explore.html").mkdir(parents=True)
    assert explore.main([str(CONFIGS / "phantom.yaml"), "-o", str(tmp_path / "page")]) == 2
    assert f"{tmp_path / 'page' / 'explore.html'}: is a folder" in capsys.readouterr().err
    assert compare.main(["a", "b", "-o", str(tmp_path / "page" / "explore.html")]) == 2
    assert "explore.html: is a folder" in capsys.readouterr().err


def test_looking_leaves_nothing_behind(tmp_path):
    require_writable(tmp_path / "a" / "b" / "page.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "kept").mkdir(mode=0o500)
    with pytest.raises(UserError, match="Permission denied"):
        require_writable(tmp_path / "kept" / "page.html")
