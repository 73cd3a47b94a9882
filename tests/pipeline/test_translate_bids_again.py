"""`--bids`: what is kept, redone or left out when something is there already or goes wrong."""

import signal

import pytest
from bids_set import MADE, OF_THE_SET, SCANS, calibrated_model, contents, data_set, run
from negative_model import files_in, loads


@pytest.fixture
def model(monkeypatch):
    model = calibrated_model()
    loads(monkeypatch, lambda uri, device: model)
    return model


def test_a_rerun_skips_and_a_scan_without_its_volume_is_redone(tmp_path, model, capsys):
    root = data_set(tmp_path / "heads", *SCANS)
    assert run("-i", root, "-o", tmp_path / "out") == 0
    (tmp_path / "out" / f"{MADE[0]}.nii.gz").unlink()
    assert run("-i", root, "-o", tmp_path / "out") == 0
    assert "1 translated, 2 skipped" in capsys.readouterr().out


def test_a_scan_that_fails_leaves_neither_volume_nor_sidecar(tmp_path, model, monkeypatch):
    root = data_set(tmp_path / "heads", *SCANS[:3])
    (root / SCANS[0]).write_text("hello")
    assert run("-i", root, "-o", tmp_path / "out") == 3
    assert files_in(tmp_path / "out") == sorted([*OF_THE_SET, f"{MADE[1]}.nii.gz", f"{MADE[1]}.json"])
    monkeypatch.setattr("pipeline.inference.batch.batch.volume_writer", lambda *_: 1 / 0)
    assert run("-i", root, "-o", tmp_path / "none") == 2
    assert files_in(tmp_path / "none") == sorted(OF_THE_SET)


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


def test_an_earlier_map_and_its_sidecar_go_with_the_volume_that_they_describe(tmp_path, model):
    root, out = data_set(tmp_path / "heads", SCANS[0]), tmp_path / "out"
    assert run("-i", root, "-o", out, "--uncertainty") == 0
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


def test_a_scan_stored_twice_fails_twice_and_the_others_are_made(model, tmp_path, capsys):
    root = data_set(tmp_path / "heads", SCANS[0], SCANS[0].removesuffix(".gz"), SCANS[2])
    assert run("-i", root, "-o", tmp_path / "out", "--quiet") == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if "sub-01_T1w" in line]
    assert len(lines) == 2
    assert all("sub-01_T1w.nii and sub-01_T1w.nii.gz would be one volume; move one away" in line for line in lines)
    assert [path for path in files_in(tmp_path / "out") if ".nii" in path] == [f"{MADE[1]}.nii.gz"]


@pytest.mark.parametrize("long", ["-i", "-o"])
def test_names_too_long_for_the_disk_are_one_line(tmp_path, model, capfd, long):
    paths = {"-i": data_set(tmp_path / "heads", SCANS[0]), "-o": tmp_path / "out"} | {long: tmp_path / ("n" * 300)}
    assert run("-i", paths["-i"], "-o", paths["-o"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_a_sidecar_that_is_not_utf8_is_taken_with_a_warning(tmp_path, model, capsys):
    root = data_set(tmp_path / "heads", SCANS[0])
    (root / "T1w.json").write_bytes('{"SkullStripped": true, "Institution": "Köln"}'.encode("latin-1"))
    assert run("-i", root, "-o", tmp_path / "out") == 0
    assert "T1w.json: is not UTF-8, as JSON must be; read as Latin-1" in capsys.readouterr().err
    assert b'"SkullStripped": true' in contents(tmp_path / "out")[f"{MADE[0]}.json"]


def test_a_damaged_sidecar_is_told_before_the_volume_is_translated(tmp_path, model):
    root = data_set(tmp_path / "heads", SCANS[0])
    (root / "T1w.json").write_text("{")
    assert run("-i", root, "-o", tmp_path / "out") == 2
    assert model.translators["T2"].calls == 0
