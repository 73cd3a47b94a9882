import json
import os
import shutil
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ixi_like import centred_affine, head, ixi_t1
from mlflow_store import failing_server, fresh_store
from PIL import Image
from small_run import CONFIGS, TINY, in_child, workshop
from tracked_run import client

from pipeline.explore import main

LEFT_ANTERIOR_SUPERIOR = np.diag([-1.0, 1.0, 1.0])
SUBJECTS = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212", "IXI014-HH-1236", "IXI015-HH-1258",
            "IXI016-Guys-0697")  # fmt: skip
SMALL = ("preprocess.size=32", "preprocess.spacing_mm=null", "preprocess.processes=1", "generator.depth=2",
         "discriminator.layers=2", "split.validation=1", "split.test=1", "tracking.mlflow=false")  # fmt: skip


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """IXI as it unpacks, coarse in plane; IXI014's T2 has slices of 4.98 mm, as the real one has."""
    folder = tmp_path_factory.mktemp("ixi")
    for number, subject in enumerate(SUBJECTS):
        thick = subject == "IXI014-HH-1236"
        shape, through_mm = ((32, 32, 33), 4.98) if thick else ((32, 32, 66), 2.5)
        affine = centred_affine(shape, LEFT_ANTERIOR_SUPERIOR, (7.5, 7.5, through_mm), 4 + 0.2 * number)
        t2 = nib.Nifti1Image(head(shape, affine, "T2", seed=number), affine)
        for contrast, image in (("T1", ixi_t1(8, seed=number)), ("T2", t2)):
            path = folder / f"IXI-{contrast}" / f"{subject}-{contrast}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(image, path)
    return folder


@pytest.fixture
def ixi(archives, tmp_path):
    """The archives, to be changed by a test."""
    return Path(shutil.copytree(archives, tmp_path / "ixi"))


def explore(folder, out, *overrides, config="ixi.yaml"):
    """Run the command on a folder of data; return its exit code."""
    data = f"data.folder={folder}"
    return main([str(CONFIGS / config), data, *SMALL, *overrides, "-o", str(out), "--quiet"])


def record(out):
    return json.loads((out / "explore.json").read_text(encoding="utf-8"))


def found(out):
    return [(finding["kind"], finding["images"]) for finding in record(out)["findings"]]


def t1(folder, subject):
    return folder / "IXI-T1" / f"{subject}-T1.nii.gz"


def test_the_one_with_thick_slices_is_named_and_nobody_else_and_images_are_counted(archives, tmp_path, capsys):
    out = tmp_path / "out"
    assert explore(archives, out) == 0
    assert found(out) == [("voxel sizes", []), ("outlier", ["IXI014-HH-1236_T2"])]  # PSR and LAS, nothing resampled
    output = capsys.readouterr().out
    assert "IXI014-HH-1236_T2: spacing inferior–superior 4.98 mm (median 2.5 mm" in output
    assert f"page        {out / 'explore.html'}" in output.splitlines()[-3]
    page = (out / "explore.html").read_text(encoding="utf-8")
    assert "spacing inferior–superior 4.98 mm" in page and "PSR" in page and "LAS" in page
    assert sorted(path.name for path in out.iterdir()) == ["explore.html", "explore.json"]

    content = record(out)  # whose counts are those of the split that the run makes
    expected = {"train": 2, "validation": 1, "test": 1, "not used": 2}
    assert content["counts"] == {"T1": expected, "T2": expected}
    assert content["pairs"] == {"train": 0, "validation": 1, "test": 1, "not used": 0}


def test_the_split_that_a_run_has_made_is_kept(archives, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    names = {"train": {"T1": [SUBJECTS[0]], "T2": [SUBJECTS[1]]}, "validation": [], "test": list(SUBJECTS[2:])}
    (run / "split.json").write_text(json.dumps(names))
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "latest.pt").touch()
    assert explore(archives, tmp_path / "out", f"output={run}") == 0
    assert record(tmp_path / "out")["pairs"]["test"] == 4


def test_what_cannot_be_read_is_named_and_the_others_are_shown(ixi, tmp_path, capsys):
    t1(ixi, SUBJECTS[1]).write_bytes(t1(ixi, SUBJECTS[1]).read_bytes()[:-500])
    assert explore(ixi, tmp_path / "out") == 0
    assert found(tmp_path / "out")[0] == ("unreadable", [f"{SUBJECTS[1]}_T1"])
    images = {image["name"]: image for image in record(tmp_path / "out")["images"]}
    reason = images[f"{SUBJECTS[1]}_T1"]["unreadable"]
    assert reason.startswith("truncated or damaged gzip data") and len(images) == 12
    assert f"warning: {t1(ixi, SUBJECTS[1])}: {reason}; left out" in capsys.readouterr().err
    assert "unreadable" not in images[f"{SUBJECTS[0]}_T1"]


def test_nothing_that_can_be_read_is_bad_input(ixi, tmp_path, capsys):
    for path in ixi.rglob("*.nii.gz"):
        path.write_bytes(b"")
    assert explore(ixi, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1] == "error: none of 12 images could be read; the reasons are above"
    assert error.count("an empty file") == 12 and not (tmp_path / "out").exists()


def test_data_that_cannot_be_split_can_be_looked_at(archives, tmp_path, capsys):
    assert explore(archives, tmp_path / "out", "split.test=6") == 0
    warning = "the run would stop here, so nothing is split below: "
    assert f"warning: {warning}" in capsys.readouterr().err
    assert warning in (tmp_path / "out" / "explore.html").read_text(encoding="utf-8")
    assert record(tmp_path / "out")["counts"]["T1"]["not used"] == 6


def test_pictures_are_explored_as_they_lie(tmp_path):
    random = np.random.default_rng(0)
    for contrast in ("T1", "T2"):
        (tmp_path / "data" / contrast).mkdir(parents=True)
        for number in range(6):
            disc = np.hypot(*np.meshgrid(np.linspace(-1.2, 1.2, 30), np.linspace(-1.2, 1.2, 36))) < 1
            gray = disc * random.integers(80, 200, disc.shape)
            gray = gray[:20] if (contrast, number) == ("T2", 3) else gray
            Image.fromarray(gray.astype(np.uint8)).save(tmp_path / "data" / contrast / f"Image #{number}.png")
    folders = ("data.train.T1=T1", "data.train.T2=T2", "preprocess.min_foreground=0.05")
    assert explore(tmp_path / "data", tmp_path / "out", *folders, config="images.yaml") == 0
    assert ("outlier", ["T2-Image #3_T2"]) in found(tmp_path / "out")
    assert record(tmp_path / "out")["images"][0]["stored_as"] == "8 bit"
    assert "patient's left" not in (tmp_path / "out" / "explore.html").read_text(encoding="utf-8")


def test_the_phantom_is_made_and_said_to_be_one(tmp_path):
    arguments = [*TINY, f"data.folder={workshop() / 'phantom'}", "tracking.mlflow=false", "--quiet"]
    assert main([str(CONFIGS / "phantom.yaml"), *arguments, "-o", str(tmp_path / "out")]) == 0
    assert record(tmp_path / "out")["phantom"] is True and found(tmp_path / "out") == []
    page = (tmp_path / "out" / "explore.html").read_text(encoding="utf-8")
    assert "Phantom data" in page and "python -m pipeline.run" in page


# ── where it is written ─────────────────────────────────────────────────────────────────────────────────────


def test_by_default_it_is_written_where_no_run_begins(archives, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(CONFIGS / "ixi.yaml"), f"data.folder={archives}", *SMALL, "name=mine", "--quiet"]) == 0
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")] == ["explore/mine/explore.html"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("run", "is a run's folder; choose another -o"),
        ("run/explore", "lies where the run itself is to begin"),
        ("other", "is a run's folder; choose another -o"),
        ("file", "is a file; choose another -o"),
    ],
)
def test_a_place_that_would_be_in_a_runs_way_is_refused(place, reason, archives, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").touch()
    (tmp_path / "file").touch()
    assert explore(archives, tmp_path / place, f"output={tmp_path / 'run'}") == 2
    assert reason in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


def test_bad_input_is_said_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(CONFIGS / "ixi.yaml"), "data.folder=nowhere"]) == 2
    assert "download them with" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ── MLflow and signals ──────────────────────────────────────────────────────────────────────────────────────


def test_page_and_record_are_logged_to_mlflow(archives, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    store = fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    metrics = tmp_path / "out" / "metrics.jsonl"
    metrics.parent.mkdir()
    metrics.write_text("somebody's")
    assert explore(archives, tmp_path / "out", "tracking.mlflow=true", "tracking.experiment=looks") == 0
    experiment = client(store).get_experiment_by_name("looks")
    [run] = client(store).search_runs([experiment.experiment_id])
    assert run.info.run_name == "explore ixi" and run.info.status == "FINISHED"
    assert run.data.tags["kind"] == "exploration" and run.data.metrics["explore/findings"] == 2
    logged = {file.path for file in client(store).list_artifacts(run.info.run_id)}
    assert logged >= {"explore.html", "explore.json"}
    assert metrics.read_text() == "somebody's"  # and nothing of ours beside it
    assert sorted(path.name for path in metrics.parent.iterdir()) == ["explore.html", "explore.json", "metrics.jsonl"]
    assert run.info.run_id in capsys.readouterr().out.splitlines()[-1]


def test_a_dead_server_keeps_nobody_waiting(archives, tmp_path, monkeypatch, capsys):
    with failing_server("closed") as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert explore(archives, tmp_path / "out", "tracking.mlflow=true") == 0
    captured = capsys.readouterr()
    assert "is not followed" in captured.err and f"{tmp_path}/out/explore.json has everything" in captured.err
    assert "MLflow was not reached" in captured.out and ".tmp-" not in captured.out + captured.err
    assert (tmp_path / "out" / "explore.html").exists()


def test_a_signal_stops_it_with_its_exit_code(archives, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        "pipeline.exploration.findings.find_all", lambda cohort, **_: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert in_child(lambda: explore(archives, tmp_path / "out")) == 143
    assert "stopped: SIG" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
