"""Many volumes through the command: what is redone, what stops it, and what it leaves on record."""

import errno
import io
import json
import os
import signal
import sys
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest
import torch
from negative_model import MODEL, batch, files_in, run, statuses, summary_of, volume_at
from small_run import in_child

from pipeline import __version__
from pipeline.utils import files
from pipeline.utils.errors import DiskFull


def fail_writing(monkeypatch, error: OSError) -> None:
    """Have the disk fail from now on."""

    def fsync(descriptor):
        raise error

    monkeypatch.setattr(files.os, "fsync", fsync)


# ── the summary ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_leaves_a_summary_for_machines(tmp_path, model):
    source = nib.load(volume_at(tmp_path / "in" / "a.nii"))
    data = source.get_fdata(dtype=np.float32)
    data[0, 0, :5] = np.nan
    nib.save(nib.Nifti1Image(data, source.affine), tmp_path / "in" / "b.nii")
    (tmp_path / "in" / "c.nii").write_text("hello")
    volume_at(tmp_path / "out" / "d.nii")
    volume_at(tmp_path / "in" / "d.nii")
    assert batch(tmp_path, "--batch-size", 3) == 3
    summary = summary_of(tmp_path / "out")
    assert summary["version"] == __version__ and summary["exit_code"] == 3 and summary["seconds"] > 0
    none = {"skipped": 0, "other model": 0, "stale": 0, "header text": 0, "not done": 0}
    assert summary["totals"] == {"volumes": 4, "translated": 2, "foreign": 1, "failed": 1} | none
    assert summary["arguments"]["batch_size"] == 3 and summary["arguments"]["model"] == MODEL
    assert summary["model"] == asdict(model.info("T2")) and len(summary["model"]["identity"]) == 12
    assert summary["computed_by"] == f"torch {torch.__version__}"
    a, b, c, d = summary["volumes"]
    assert (a["source"], a["target"]) == (str(tmp_path / "in" / "a.nii"), str(tmp_path / "out" / "a.nii"))
    assert a["seconds"] > 0 and (a["warnings"], a["error"]) == ([], "")
    assert "5 NaN or infinite voxels" in b["warnings"][0]
    assert c["status"] == "failed" and "not a NIfTI volume but something else" in c["error"]
    assert d["status"] == "foreign" and f"{tmp_path / 'out' / 'd.nii'} is there and was not made by" in d["error"]


def test_a_repeated_batch_says_of_each_volume_what_computed_it(tmp_path, model, monkeypatch):
    volume_at(tmp_path / "in" / "a.nii")
    assert batch(tmp_path) == 0
    volume_at(tmp_path / "in" / "b.nii")
    (tmp_path / "in" / "c.nii").write_text("hello")
    monkeypatch.setattr("pipeline.inference.multi_view.computed_by", lambda network: "OpenVINO 2026.4")
    for _ in range(2):  # the second time it computes nothing
        assert batch(tmp_path) == 3
        summary, version = summary_of(tmp_path / "out"), f"torch {torch.__version__}"
        assert [volume["computed_by"] for volume in summary["volumes"]] == [version, "OpenVINO 2026.4", ""]
        assert summary["computed_by"] == f"{version}, OpenVINO 2026.4"


def test_a_single_file_leaves_a_summary_only_where_it_is_asked_to(tmp_path, model):
    source = volume_at(tmp_path / "a.nii")
    assert run("-i", source, "-o", tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii"]
    assert run("-i", source, "-o", tmp_path / "b.nii", "--summary", tmp_path / "told.json") == 0
    assert json.loads((tmp_path / "told.json").read_text())["totals"]["translated"] == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_done_and_the_summary(tmp_path, model, capsys, number, code):
    for name in ("a.nii", "b.nii", "c.nii"):
        volume_at(tmp_path / "in" / name)
    model.translators["T2"].accidents = {2: lambda: os.kill(os.getpid(), number)}
    before = signal.getsignal(signal.SIGTERM)
    assert batch(tmp_path, "--batch-size", "1000") == code
    assert signal.getsignal(signal.SIGTERM) is before
    assert files_in(tmp_path / "out") == ["a.nii"]
    assert statuses(tmp_path / "out") == {"a.nii": "translated", "b.nii": "not done", "c.nii": "not done"}
    assert summary_of(tmp_path / "out")["exit_code"] == code
    assert "run the same command again for the rest" in capsys.readouterr().err
    model.translators["T2"].accidents = {4: lambda: os.kill(os.getpid(), number)}
    assert batch(tmp_path, "--batch-size", "1000", "--overwrite") == code
    reason = {signal.SIGINT: "stopped: interrupted", signal.SIGTERM: "stopped by SIGTERM"}[number]
    assert f"{reason}; run the same command again, which begins anew" in capsys.readouterr().err


# ── what is there already ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("length", [0, -900])
def test_an_output_that_is_not_whole_is_made_again(tmp_path, model, length):
    source, target = volume_at(tmp_path / "in" / "a.nii.gz"), tmp_path / "out" / "a.nii.gz"
    assert run("-i", source.parent, "-o", tmp_path / "out") == 0
    whole = target.read_bytes()
    target.write_bytes(whole[:length])
    assert run("-i", source.parent, "-o", tmp_path / "out") == 0
    assert statuses(tmp_path / "out") == {"a.nii.gz": "translated"} and target.read_bytes() == whole


def test_leftovers_of_killed_commands_go_and_others_stay(tmp_path, model):
    volume_at(tmp_path / "in" / "site" / "a.nii")
    out = tmp_path / "out" / "site"
    out.mkdir(parents=True)
    (out / ".tmp-00112233aabbccdd.nii").write_bytes(b"half")
    os.utime(out / ".tmp-00112233aabbccdd.nii", (0, 0))
    kept = {".tmp-00112233aabbccee.nii": "its writer may live", ".tmp-mine": "not of our making"}
    for name in kept:
        (out / name).write_bytes(b"half")
    assert batch(tmp_path) == 0
    assert {path.name for path in out.iterdir()} == {"a.nii", *kept}


# ── the disk and the memory ─────────────────────────────────────────────────────────────────────────────────


def test_a_full_disk_is_named_leaves_nothing_partial_and_ends_the_batch(tmp_path, model, monkeypatch, capsys):
    for name in ("a.nii", "b.nii", "c.nii"):
        volume_at(tmp_path / "in" / name)
    disk_full = OSError(errno.ENOSPC, "No space left on device")
    model.translators["T2"].accidents = {2: lambda: fail_writing(monkeypatch, disk_full)}  # as b is translated
    assert batch(tmp_path, "--batch-size", 1000) == 3
    printed = capsys.readouterr()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii"]
    assert f"{tmp_path / 'out' / 'b.nii'}: disk full, " in printed.out and "free some space" in printed.out
    assert "1 translated, 1 failed, 1 not done" in printed.out
    assert "stopped: the disk is full; run the same command again for the rest" in printed.err
    assert "summary.json: disk full" in printed.err


def test_a_summary_alone_that_cannot_be_written_is_3(tmp_path, model, monkeypatch, capsys):
    def full(path, text):
        raise DiskFull(f"{path}: disk full")

    volume_at(tmp_path / "in" / "a.nii")
    monkeypatch.setattr("pipeline.inference.batch.summary.atomic_text", full)
    assert batch(tmp_path) == 3
    assert "summary.json: disk full" in capsys.readouterr().err


def test_a_terminal_that_takes_nothing_changes_neither_volumes_nor_summary_nor_code(tmp_path, model):
    volume_at(tmp_path / "in" / "a.nii")
    (tmp_path / "in" / "b.nii").write_text("hello")

    def mute() -> int:
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True) for _ in range(2))
        return batch(tmp_path)

    assert in_child(mute) == 3
    assert statuses(tmp_path / "out") == {"a.nii": "translated", "b.nii": "failed"}


def test_memory_that_ends_anywhere_else_is_named_too(tmp_path, model, monkeypatch):
    volume_at(tmp_path / "in" / "a.nii")
    monkeypatch.setattr("pipeline.inference.batch.batch.volume_writer", lambda *_: (_ for _ in ()).throw(MemoryError()))
    assert batch(tmp_path) == 2
    message = f"{tmp_path / 'in' / 'a.nii'}: does not fit into memory; crop it or use a larger machine"
    assert summary_of(tmp_path / "out")["volumes"][0]["error"] == message


# ── what is said ────────────────────────────────────────────────────────────────────────────────────────────


def test_verbose_names_the_model_and_each_volume_as_it_ends(tmp_path, model, capfd):
    volume_at(tmp_path / "in" / "a.nii")
    (tmp_path / "in" / "b.nii").write_text("hello")
    assert batch(tmp_path, "--verbose") == 3
    printed = capfd.readouterr()
    assert f"model: contrast translation, weights {model.identity('T2')}, makes T2\ncomputed by torch 2" in printed.out
    assert f"a.nii -> {tmp_path / 'out' / 'a.nii'}: translated in " in printed.out
    assert "b.nii: failed in " in printed.out
    assert printed.err == ""  # no bar
    assert batch(tmp_path, "--verbose", "--quiet") == 2


@pytest.mark.parametrize("kept", [False, True])
def test_header_text_is_kept_only_when_asked_for_and_a_volume_that_has_it_is_not_skipped(tmp_path, model, kept, capsys):
    source = nib.load(volume_at(tmp_path / "plain.nii"))
    image = nib.Nifti1Image(source.get_fdata().astype(np.int16), source.affine, source.header)
    image.header["descrip"], image.header["db_name"], image.header["aux_file"] = b"Jane scan", b"Jane", b"Jane.txt"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, born 1970"))
    nib.save(image, tmp_path / "a.nii")
    assert run("-i", tmp_path / "a.nii", "-o", tmp_path / "out", *["--keep-header-text"] * kept) == 0
    path = tmp_path / "out" / "a.nii"
    after = nib.load(path)
    assert path.read_bytes().count(b"Jane") == (4 if kept else 0)
    assert (
        after.header["descrip"]
        .item()
        .startswith(b"not for clinical use; synthetic T2" + (b"; Jane scan" if kept else b", "))
    )
    assert len(after.header.extensions) == kept + 1  # and the record of what made it
    assert np.array_equal(after.affine, source.affine) and after.get_fdata().std() > 0
    assert run("-i", tmp_path / "a.nii", "-o", tmp_path / "out") == (2 if kept else 0)
    assert (
        "keeps text of its source's header, which may hold names; add --overwrite" in capsys.readouterr().err
    ) is kept
    assert run("-i", tmp_path / "a.nii", "-o", tmp_path / "out", "--keep-header-text") == 0
    nib.save(nib.Nifti1Image(source.get_fdata().astype(np.int16), source.affine), tmp_path / "bare.nii")
    assert run("-i", tmp_path / "bare.nii", "-o", tmp_path / "out", *["--keep-header-text"] * kept) == 0
    assert run("-i", tmp_path / "bare.nii", "-o", tmp_path / "out") == 0  # there was no text to keep
