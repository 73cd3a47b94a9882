"""What made a volume is told from what stands in its place: others' files, other models, sources that changed."""

import hashlib
import json
import os
import shutil

import ixi_like
import nibabel as nib
import numpy as np
import pytest
import torch
from bids_set import calibrated_model
from negative_model import batch, loads, negative_model, run, statuses, summary_of, volume_at
from nibabel.nifti1 import Nifti1Extension

from pipeline.inference.batch.provenance import (
    CommandModel,
    Provenance,
    files_digest,
    keeps_header_text,
    model_files_digest,
    read_record,
    source_files,
    write_record,
)
from pipeline.inference.output_volume import image_like, write_volume

RECORD = Provenance("T2", "0123456789ab", "abc", "def", 7)


def image_of_ours(header_class=nib.Nifti1Header, order="<"):
    source = ixi_like.ixi_t1(scale=16)
    header = header_class(endianness=order)
    header.set_data_shape(source.shape), header.set_sform(source.affine, 1)
    return image_like(source.get_fdata(), source.affine, header, integer=True, description="synthetic T2, test")


@pytest.fixture
def other_model(monkeypatch):
    """Have the command load a model of other weights, when called."""

    def switch():
        output = negative_model()
        output.translators["T2"].register_buffer("weight", torch.ones(1))
        loads(monkeypatch, lambda uri, device: output)

    return switch


@pytest.mark.parametrize(
    ("name", "header_class", "order"), [("a.nii", nib.Nifti1Header, ">"), ("a.nii.gz", nib.Nifti2Header, "<")]
)
def test_a_record_is_read_as_it_was_written_be_the_file_cut_short(tmp_path, name, header_class, order):
    image = image_of_ours(header_class, order)
    write_record(image, RECORD)
    write_volume(image, tmp_path / name)
    assert nib.load(tmp_path / name).shape == image.shape  # others read it still
    content = (tmp_path / name).read_bytes()
    for length in (len(content), len(content) - 20, len(content) // 2):
        (tmp_path / name).write_bytes(content[:length])
        assert read_record(tmp_path / name) == RECORD


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_record_is_read_behind_long_extensions_of_others(tmp_path, name):
    image = image_of_ours()
    image.header.extensions.append(Nifti1Extension("comment", np.random.default_rng(0).bytes(3 << 20)))
    write_record(image, RECORD)
    write_volume(image, tmp_path / name)
    assert read_record(tmp_path / name) == RECORD


def test_a_header_longer_than_any_is_not_read(tmp_path, monkeypatch):
    image = image_of_ours()
    image.header.extensions.append(Nifti1Extension("comment", bytes(2000)))
    write_record(image, RECORD)
    write_volume(image, tmp_path / "a.nii.gz")
    assert read_record(tmp_path / "a.nii.gz") == RECORD
    monkeypatch.setattr("pipeline.inference.batch.provenance.MAX_HEADER_BYTES", 2000)
    assert read_record(tmp_path / "a.nii.gz") is None


@pytest.mark.parametrize(
    ("text", "keep_text", "kept"), [("Jane", True, True), ("", True, False), ("Jane", False, False)]
)
def test_kept_text_is_told_from_a_models_name(tmp_path, text, keep_text, kept):
    source = ixi_like.ixi_t1(scale=16)
    header = nib.Nifti1Header()
    header.set_data_shape(source.shape), header.set_sform(source.affine, 1)
    header["descrip"] = text.encode()
    description = "synthetic T2, a; b; c"
    image = image_like(
        source.get_fdata(), source.affine, header, integer=True, description=description, keep_text=keep_text
    )
    write_volume(image, tmp_path / "a.nii")
    assert keeps_header_text(tmp_path / "a.nii") == kept


def test_a_record_replaces_the_sources_own_and_other_extensions_stay():
    image = image_of_ours()
    image.header.extensions.append(Nifti1Extension("comment", b"mine"))
    write_record(image, Provenance("T1", "f" * 12, "", "0", 1))
    write_record(image, RECORD)
    mine, ours = image.header.extensions
    assert bytes(mine.get_content()).rstrip(b"\0") == b"mine"
    assert json.loads(ours.get_content())["weights"] == RECORD.weights


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b", b"\x1f\x8b" + bytes(50), bytes(400)])
def test_what_is_no_header_of_ours_has_no_record(tmp_path, content):
    (tmp_path / "a.nii").write_bytes(content)
    assert read_record(tmp_path / "a.nii") is None
    assert read_record(volume_at(tmp_path / "scan.nii.gz")) is None


def test_a_record_of_an_earlier_release_does_not_say_what_computed_it():
    content = RECORD.to_json()
    del content["computed_by"]
    assert Provenance.from_json(content) == RECORD


def test_a_record_that_is_not_what_it_should_be_is_none():
    image = image_of_ours()
    for content in (b"[]", b'{"tool": "contrast-translation"}', b'{"tool": "contrast-translation", "to": 3}', b"[" * 9):
        image.header.extensions.append(Nifti1Extension("comment", content))
    write_record(image, RECORD)
    assert len(image.header.extensions) == 5


def test_a_digest_is_of_the_bytes_alone(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"xyz")
    a, b = (hashlib.sha256(content).hexdigest() for content in (b"abc", b"xyz"))
    assert files_digest([tmp_path / "a"]) == a[:16]
    both = hashlib.sha256("".join(sorted([a, b])).encode()).hexdigest()[:16]
    assert files_digest([tmp_path / "a", tmp_path / "b"]) == files_digest([tmp_path / "b", tmp_path / "a"]) == both


def test_a_source_of_several_files_is_all_of_them(tmp_path):
    for name in ("x.hdr", "x.img", "x.mat", "y.img"):
        (tmp_path / name).write_bytes(b"1")
    assert [path.name for path in source_files(tmp_path / "x.img")] == ["x.hdr", "x.img", "x.mat"]


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_of_others_stays_unless_told_to_overwrite(tmp_path, model, capsys, name="a.nii.gz"):
    volume_at(tmp_path / "in" / name), volume_at(tmp_path / "in" / "b.nii")
    foreign = volume_at(tmp_path / "out" / name, seed=5)
    before = foreign.read_bytes()
    assert batch(tmp_path) == 3
    assert statuses(tmp_path / "out") == {name: "foreign", "b.nii": "translated"}
    assert summary_of(tmp_path / "out")["totals"]["foreign"] == 1
    assert f"{foreign} is there and was not made by this command" in capsys.readouterr().out
    assert foreign.read_bytes() == before
    assert batch(tmp_path, "--dry-run") == 0
    assert "leave as it is, foreign" in capsys.readouterr().out
    assert run("-i", tmp_path / "in" / name, "-o", foreign) == 2  # one file, which is there and nobody's
    assert foreign.read_bytes() == before
    assert batch(tmp_path, "--overwrite") == 0
    assert foreign.read_bytes() != before


def test_what_another_model_made_stays_unless_told_to_overwrite(tmp_path, model, other_model, capsys):
    volume_at(tmp_path / "in" / "a.nii.gz")
    out = tmp_path / "out"
    assert run("-i", tmp_path / "in", "-o", out) == 0
    before = (out / "a.nii.gz").read_bytes()
    other_model()
    assert run("-i", tmp_path / "in", "-o", out) == 2
    assert statuses(out) == {"a.nii.gz": "other model"} and (out / "a.nii.gz").read_bytes() == before
    assert f"made by another model (weights {model.identity('T2')}, to T2)" in capsys.readouterr().err
    assert run("-i", tmp_path / "in", "-o", out, "--overwrite") == 0
    assert run("-i", tmp_path / "in", "-o", out) == 0 and statuses(out) == {"a.nii.gz": "skipped"}


def test_a_source_that_changed_is_stale_and_one_that_was_copied_is_not(tmp_path, model, capsys):
    source, out = volume_at(tmp_path / "in" / "a.nii.gz"), tmp_path / "out"
    assert run("-i", source.parent, "-o", out) == 0
    shutil.copy(source, tmp_path / "copy")
    (tmp_path / "copy").replace(source)  # its bytes, with another time and inode
    os.utime(source, (1, 1))
    assert run("-i", source.parent, "-o", out) == 0 and statuses(out) == {"a.nii.gz": "skipped"}
    volume_at(source, seed=9)
    os.utime(source, (1, 1))  # older than the output
    before = (out / "a.nii.gz").read_bytes()
    assert run("-i", source.parent, "-o", out) == 2 and statuses(out) == {"a.nii.gz": "stale"}
    assert "has changed since" in capsys.readouterr().err and (out / "a.nii.gz").read_bytes() == before
    assert run("-i", source.parent, "-o", out, "--overwrite") == 0
    assert run("-i", source.parent, "-o", out) == 0 and statuses(out) == {"a.nii.gz": "skipped"}
    shutil.move(out, tmp_path / "moved")  # the record goes with the files
    assert run("-i", source.parent, "-o", tmp_path / "moved") == 0
    assert statuses(tmp_path / "moved") == {"a.nii.gz": "skipped"}


def test_a_source_that_changes_while_it_is_translated_is_stale(tmp_path, model):
    source, out = volume_at(tmp_path / "a.nii.gz"), tmp_path / "a_T2.nii.gz"
    model.translators["T2"].accidents[1] = lambda: volume_at(source, seed=9)
    assert run("-i", source, "-o", out) == 0
    assert run("-i", source, "-o", out) == 2


def test_a_file_of_others_in_the_maps_place_stays_too(tmp_path, monkeypatch):
    output = calibrated_model()
    loads(monkeypatch, lambda uri, device: output)
    source, out = volume_at(tmp_path / "a.nii.gz"), tmp_path / "out"
    foreign = volume_at(out / "a_uncertainty.nii.gz")
    before = foreign.read_bytes()
    assert run("-i", source, "-o", out, "--uncertainty") == 2
    assert foreign.read_bytes() == before and not (out / "a.nii.gz").exists()
    assert run("-i", source, "-o", out, "--uncertainty", "--overwrite") == 0
    assert read_record(foreign) == read_record(out / "a.nii.gz")
    assert read_record(foreign).of_source(source) == read_record(foreign)


def test_the_same_checkpoint_needs_not_be_loaded_and_changed_ones_do(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"weights")

    def refuse():
        raise AssertionError("loaded")

    model = CommandModel([str(tmp_path / "a.pt")], None, load=refuse)
    assert model.matches(Provenance("T2", "w", files_digest([tmp_path / "a.pt"])))
    with pytest.raises(AssertionError, match="loaded"):
        model.matches(Provenance("T2", "w", "another"))
    assert model_files_digest(["models:/a@best"], None) == model_files_digest([str(tmp_path / "none")], None) == ""
    (tmp_path / "style.nii").write_bytes(b"style")
    with_style = model_files_digest([str(tmp_path / "a.pt")], tmp_path / "style.nii")
    assert with_style != model_files_digest([str(tmp_path / "a.pt")], None)
