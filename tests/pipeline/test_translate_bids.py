"""`--bids`: which scans are taken, what stands beside and in place of their translations, what the validator says."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bids_set import MADE, OF_THE_SET, SCANS, calibrated_model, contents, data_set, run, sidecar
from negative_model import files_in, loads, negative_model, volume_at

from pipeline import __version__

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")


@pytest.fixture
def model(monkeypatch):
    calibrated = calibrated_model()
    loads(monkeypatch, lambda uri, device: calibrated)
    return calibrated


def test_every_scan_of_the_source_contrast_is_translated_and_described(tmp_path, model):
    root = data_set(tmp_path / "heads", *SCANS)
    out = root / "derivatives" / "synth"
    assert run("-i", root, "-o", out) == 0
    assert files_in(out) == sorted(
        [*OF_THE_SET, *(f"{name}{suffix}" for name in MADE for suffix in (".nii.gz", ".json"))]
    )
    source, output = nib.load(root / SCANS[0]), nib.load(out / f"{MADE[0]}.nii.gz")
    assert np.array_equal(source.affine, output.affine) and output.get_fdata().std() > 0
    content = sidecar(out, MADE[1])
    assert content["Sources"] == [f"bids:source:{SCANS[2]}"]
    assert (content["SkullStripped"], content["SpatialReference"]) == (False, "orig")
    assert content["Description"] == "Synthetic T2 translated from T1; not for clinical use"
    assert content["ComputedBy"].startswith("torch 2")
    (generated_by,) = content["GeneratedBy"]
    assert generated_by["Name"] == "contrast-translation" and generated_by["Version"] == __version__
    assert (generated_by["ModelID"], generated_by["ConfigHash"]) == (model.identity("T2"), "")
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["Name"] == "Heads: synthetic T2" and described["License"] == "CC0"
    assert described["DatasetType"] == "derivative" and described["GeneratedBy"] == [generated_by]
    assert described["DatasetLinks"] == {"source": "../.."}
    assert (out / "summary.json").is_file() and "summary.json" in (out / ".bidsignore").read_text()
    assert str(tmp_path) not in (out / "dataset_description.json").read_text() + json.dumps(content)


def test_another_models_entry_and_what_a_user_added_stay(tmp_path, model):
    root = data_set(tmp_path / "heads", SCANS[0], Authors=["who scanned"])
    assert run("-i", root, "-o", tmp_path / "out") == 0
    path = tmp_path / "out" / "dataset_description.json"
    described = json.loads(path.read_text())
    assert "Authors" not in described
    path.write_text(json.dumps(described | {"Authors": ["who translated"]}))
    (tmp_path / "out" / "README.md").write_text("mine")
    object.__setattr__(model, "config_hash", "feed")
    for _ in range(2):
        assert run("-i", root, "-o", tmp_path / "out", "--overwrite") == 0
    described = json.loads(path.read_text())
    assert [entry["ConfigHash"] for entry in described["GeneratedBy"]] == ["", "feed"]
    assert described["Authors"] == ["who translated"] and (tmp_path / "out" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("zeros", "warning"), [(0.3, None), (0.6, "is noted as false; say --skull-stripped"), (0.8, "is noted as true")]
)
def test_without_word_of_the_skull_zeros_decide_and_doubt_is_said(tmp_path, model, capsys, zeros, warning):
    root = data_set(tmp_path / "heads", SCANS[0])
    image = nib.load(root / SCANS[0])
    data = np.asarray(image.dataobj) + 1
    data.flat[np.argsort(data.ravel())[: int(zeros * data.size)]] = 0
    nib.save(nib.Nifti1Image(data, image.affine, image.header), root / SCANS[0])
    assert run("-i", root, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert ("SkullStripped" in printed) is (warning is not None) and (warning or "") in printed
    assert sidecar(tmp_path / "out", MADE[0])["SkullStripped"] is (zeros > 0.7)


def test_sidecars_are_inherited_and_the_users_word_overrules_them(tmp_path, model):
    root = data_set(tmp_path / "heads", SCANS[0], SCANS[3])
    (root / "T1w.json").write_text('{"SkullStripped": true}')
    (root / "T2w.json").write_text('{"SkullStripped": false}')
    (root / "sub-02" / "sub-02_T1w.json").write_text('{"SkullStripped": false, "SpatialReference": "scanner"}')
    assert run("-i", root, "-o", tmp_path / "out") == 0
    assert sidecar(tmp_path / "out", MADE[0])["SkullStripped"] is True
    assert sidecar(tmp_path / "out", MADE[2])["SkullStripped"] is False
    assert sidecar(tmp_path / "out", MADE[2])["SpatialReference"] == "scanner"
    assert run("-i", root, "-o", tmp_path / "told", "--skull-stripped", "no") == 0
    assert sidecar(tmp_path / "told", MADE[0])["SkullStripped"] is False


def test_a_derivative_as_source_keeps_its_description_and_space(tmp_path, model):
    scan = "sub-01/anat/sub-01_space-MNI152NLin6Asym_desc-brain_T1w.nii.gz"
    root = data_set(tmp_path / "heads", scan, "sub-01/anat/sub-01_space-MNI152NLin6Asym_desc-full_T1w.nii.gz")
    assert run("-i", root, "-o", tmp_path / "out") == 0
    stem = "sub-01/anat/sub-01_space-MNI152NLin6Asym_desc-brainsynth_T2w"
    assert (tmp_path / "out" / f"{stem}.nii.gz").is_file()
    assert "SpatialReference" not in sidecar(tmp_path / "out", stem)


def test_contrasts_of_other_names_need_their_suffix(tmp_path, monkeypatch, capsys):
    loads(monkeypatch, lambda *_: negative_model(("weiß", "flair")))
    root = data_set(tmp_path / "heads", *SCANS)
    assert run("-i", root, "-o", tmp_path / "out", to="flair") == 2
    assert "contrast 'weiß' names no BIDS suffix; say which with --bids-suffix FROM TO" in capsys.readouterr().err
    assert run("-i", root, "-o", tmp_path / "out", "--bids-suffix", "T1w", "../x", to="flair") == 2
    assert "--bids-suffix ../x: is none of BIDS's for anat; choose from T1w, T2w" in capsys.readouterr().err
    assert run("-i", root, "-o", tmp_path / "out", "--bids-suffix", "T1w", "FLAIR", to="flair") == 0
    assert (tmp_path / "out" / "sub-01" / "anat" / "sub-01_desc-synth_FLAIR.nii.gz").is_file()


REFUSED = {
    "two roots": (["heads", "heads"], "out", "--bids takes one IN, the root folder of a BIDS data set"),
    "a file": (["heads/sub-01/anat/sub-01_T1w.nii.gz"], "out", "--bids takes one IN"),
    "no description": (["heads/sub-01"], "out", "sub-01: has no dataset_description.json; give the root"),
    "a damaged one": (["broken"], "out", "dataset_description.json: is no JSON ("),
    "another kind of JSON": (["list"], "out", "dataset_description.json: is not a JSON object; correct it"),
    "a file as OUT": (["heads"], "out.nii.gz", "--bids makes a data set; give a folder as OUT"),
    "OUT is IN": (["heads"], "heads", "OUT is the source data set; choose another one, as "),
    "another's OUT": (["heads"], "other", "other: holds a data set that this command did not make; choose another OUT"),
    "no such scans": (["empty"], "out", "empty: no sub-*/[ses-*/]anat/*_T1w.nii[.gz]; check the data set, or --to"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_data_set_or_no_place_for_one_is_refused_in_a_line(tmp_path, model, capsys, kind):
    inputs, out, message = REFUSED[kind]
    data_set(tmp_path / "heads", SCANS[0])
    data_set(tmp_path / "other", SCANS[0], GeneratedBy=[{"Name": "fmriprep"}])
    data_set(tmp_path / "empty", SCANS[1])
    (data_set(tmp_path / "broken") / "dataset_description.json").write_text("{")
    (data_set(tmp_path / "list") / "dataset_description.json").write_text("[]")
    before = sorted(tmp_path.rglob("*"))
    assert run("-i", *(tmp_path / name for name in inputs), "-o", tmp_path / out) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_validator_finds_no_error(tmp_path, model):
    if not VALIDATOR.exists():
        pytest.skip(f"{VALIDATOR.name} is not installed; it comes with the test extra")
    root = data_set(tmp_path / "heads", *SCANS[:4])
    assert run("-i", root, "-o", tmp_path / "out", "--uncertainty") == 0
    command = [str(VALIDATOR), str(tmp_path / "out"), "--format", "json", "--datasetTypes", "derivative"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    report = json.loads(result.stdout)
    assert sorted(report["summary"]["subjects"]) == ["01", "02"] and report["summary"]["dataTypes"] == ["anat"]
    assert {issue["code"]: issue["severity"] for issue in report["issues"]["issues"]} == {"TOO_FEW_AUTHORS": "warning"}
    assert result.returncode == 0
    (tmp_path / "out" / f"{MADE[0]}.json").unlink()  # the validator does look
    assert subprocess.run(command, capture_output=True, timeout=120).returncode != 0


def test_the_link_to_the_source_holds_where_out_is_reached_through_a_link(tmp_path, model):
    root = data_set(tmp_path / "heads", SCANS[0])
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "deep")
    assert run("-i", root, "-o", tmp_path / "out") == 0
    described = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert (tmp_path / "disk" / "deep" / described["DatasetLinks"]["source"]).resolve() == root.resolve()


# ── what is kept, redone or left out ────────────────────────────────────────────────────────────────────────


def test_a_scan_that_fails_leaves_neither_volume_nor_sidecar(tmp_path, model):
    root = data_set(tmp_path / "heads", *SCANS[:3])
    (root / SCANS[0]).write_text("hello")
    assert run("-i", root, "-o", tmp_path / "out") == 3
    assert files_in(tmp_path / "out") == sorted([*OF_THE_SET, f"{MADE[1]}.nii.gz", f"{MADE[1]}.json"])


def test_what_cannot_be_made_again_stays_as_it_was(tmp_path, model, monkeypatch, capsys):
    root, out = data_set(tmp_path / "heads", SCANS[0], SCANS[3]), tmp_path / "out"
    assert run("-i", root, "-o", out, "--uncertainty") == 0
    before = contents(out)
    assert len(before) == 8
    with monkeypatch.context() as broken:
        broken.setattr("pipeline.inference.batch.batch.volume_writer", lambda *_: lambda stream: 1 / 0)
        assert run("-i", root, "-o", out, "--overwrite") == 2
    assert contents(out) == before
    (root / "T1w.json").write_text("{")
    assert run("-i", root, "-o", out, "--overwrite") == 2
    assert "T1w.json: is no JSON" in capsys.readouterr().out
    assert contents(out) == before


@pytest.mark.parametrize("number", [0, 3])
def test_an_error_while_files_are_moved_into_place_leaves_the_earlier_volume(tmp_path, model, monkeypatch, number):
    root, out = data_set(tmp_path / "heads", SCANS[0]), tmp_path / "out"
    volume = out / f"{MADE[0]}.nii.gz"
    assert run("-i", root, "-o", out, "--uncertainty") == 0
    before, replace, moved = volume.read_bytes(), Path.replace, []

    def fail(path, target):
        if target.name.startswith("sub-"):
            moved.append(target)
            if len(moved) > number:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(path, target)

    volume_at(root / SCANS[0], seed=5)
    monkeypatch.setattr(Path, "replace", fail)
    assert run("-i", root, "-o", out, "--uncertainty", "--overwrite") == 2
    assert len(moved) == number + 1 and volume.read_bytes() == before


def test_a_map_has_a_name_and_a_sidecar_of_its_own_which_go_with_the_volume_that_they_describe(tmp_path, model):
    root, out = data_set(tmp_path / "heads", SCANS[0]), tmp_path / "out"
    assert run("-i", root, "-o", out, "--uncertainty") == 0
    name = "sub-01/anat/sub-01_desc-synthuncertainty_T2w"
    assert {f"{name}.nii.gz", f"{name}.json"} < set(files_in(out))
    content = sidecar(out, name)
    assert content["Description"].startswith("Absolute error to expect of the synthetic T2, in its intensities")
    assert content["Sources"] == [f"bids:source:{SCANS[0]}"]
    assert run("-i", root, "-o", out) == 0
    assert len(contents(out)) == 4  # skipped
    assert run("-i", root, "-o", out, "--overwrite") == 0
    assert [*contents(out)] == [f"{MADE[0]}.json", f"{MADE[0]}.nii.gz"]


def test_sigterm_while_the_model_is_loaded_is_a_line_and_143(tmp_path, monkeypatch, capsys):
    root = data_set(tmp_path / "heads", SCANS[0])
    loads(monkeypatch, lambda *_: signal.raise_signal(signal.SIGTERM))
    assert run("-i", root, "-o", tmp_path / "out") == 143
    assert capsys.readouterr().err == "stopped: SIGTERM; the same command does what is left\n"
    assert not (tmp_path / "out").exists()
