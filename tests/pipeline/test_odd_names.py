"""Every command takes any name that the file system can hold: bytes in no encoding, two lines, quotes, markup."""

import json
import os
import shutil

import mlflow_store
import pytest
import yaml
from small_run import CONFIGS, QUICK, empty_models, phantom_run
from small_volumes import write_volume

from pipeline import compare, explore, run, sync, translate

ODD = os.fsdecode(b"caf\xe9 \"q' <b>&#%s\n{x} $5 ~")
SHORT = ("training.steps_per_epoch=1", "training.decay_epochs=0")


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    """A run whose data, store and folder have odd names, followed by MLflow."""
    folder = tmp_path_factory.mktemp("odd") / ODD
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_store.fresh_store(folder.parent))
        (folder.parent / "here").mkdir()
        patch.chdir(folder.parent / "here")
        overrides = (f"data.folder={folder / 'data'}", f"preprocess.store={folder / 'store'}")
        with empty_models():
            assert phantom_run(folder / "run", *QUICK, *SHORT, *overrides, "tracking.mlflow=true") == 0
        yield folder


def test_a_run_ends_whole(odd_folder):
    assert (odd_folder / "run" / "report.html").is_file() and (odd_folder / "run" / "run.json").is_file()
    assert "caf\\udce9" in (odd_folder / "run" / "report.html").read_text(encoding="utf-8")
    config = yaml.safe_load((odd_folder / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["folder"] == str(odd_folder / "data")


def test_its_record_for_mlflow_is_whole(odd_folder):
    entries = [json.loads(line) for line in (odd_folder / "run" / "tracking.jsonl").read_text().splitlines()]
    assert entries[-1]["status"] == "FINISHED"
    assert next(entry for entry in entries if entry["kind"] == "about")["params"]["data.folder"].startswith("/")


def test_the_same_command_would_take_it_up(odd_folder, capsys):
    assert run.main([str(odd_folder / "run" / "config.yaml"), "--dry-run"]) == 0


def test_runs_are_compared(odd_folder, capsys):
    shutil.copytree(odd_folder / "run", odd_folder / "other")
    page = odd_folder / "page" / "compare.html"
    assert compare.main([str(odd_folder / "run"), str(odd_folder / "other"), "-o", str(page), "--quiet"]) == 0
    assert page.is_file() and page.with_suffix(".csv").is_file()


def test_a_run_is_sent_to_mlflow(odd_folder, monkeypatch, capsys):
    (odd_folder.parent / "second").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store.fresh_store(odd_folder.parent / "second"))
    with empty_models():
        assert sync.main([str(odd_folder / "run")]) in (0, 3)
    assert "Traceback" not in capsys.readouterr().err


def test_volumes_are_translated(odd_folder, tmp_path):
    source = write_volume(tmp_path / ODD / f"{ODD}.nii.gz")
    out = odd_folder / "out"
    assert (
        translate.main(["-i", str(source.parent), "-o", str(out), "--model", str(odd_folder / "run"), "--to", "T2"])
        == 0
    )
    assert (out / f"{ODD}.nii.gz").is_file() and json.loads((out / "summary.json").read_text())["exit_code"] == 0


def test_data_are_explored(tmp_path):
    for number in range(3):
        for contrast in ("T1", "T2"):
            write_volume(tmp_path / ODD / f"{ODD}{number}" / f"{contrast}.nii.gz", number)
    patterns = "{T1: '{subject}/T1.nii.gz', T2: '{subject}/T2.nii.gz'}"
    overrides = [f"data.folder={tmp_path / ODD}", f"data.patterns={patterns}",
                 "preprocess.size=32", "preprocess.processes=1", "generator.width=4", "discriminator.layers=2",
                 "tracking.mlflow=false", "split.test=1", "split.validation=0"]  # fmt: skip
    command = [str(CONFIGS / "nifti.yaml"), *overrides, "-o", str(tmp_path / ODD / "page"), "--quiet"]
    assert explore.main(command) == 0
    record = json.loads((tmp_path / ODD / "page" / "explore.json").read_text(encoding="utf-8"))
    assert {entry["path"] for entry in record["images"]} == {
        str(tmp_path / ODD / f"{ODD}{number}" / f"{contrast}.nii.gz")
        for number in range(3)
        for contrast in ("T1", "T2")
    }
    assert "caf\\udce9" in (tmp_path / ODD / "page" / "explore.html").read_text(encoding="utf-8")
