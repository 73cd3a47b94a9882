import doctest
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from negative_model import MODEL, files_in, loads, run, volume_at
from small_checkpoints import untrained_model

from pipeline.inference.translator import translate
from pipeline.translate import main


def test_where_all_is_done_by_the_same_checkpoint_no_model_is_loaded(tmp_path, model, monkeypatch):
    source, checkpoint = volume_at(tmp_path / "a.nii"), tmp_path / "best.pt"
    checkpoint.write_bytes(b"weights")
    command = ["-i", str(source), "-o", str(tmp_path / "out"), "--model", str(checkpoint), "--to", "T2"]
    assert main(command) == 0
    loads(monkeypatch, None)
    assert main(command) == main([*command, "--dry-run"]) == 0


def test_an_error_nobody_expected_does_not_stop_the_others(tmp_path, model, capsys):
    sources = [volume_at(tmp_path / name) for name in ("a.nii", "b.nii")]
    model.translators["T2"].accidents = {1: ZeroDivisionError("division by zero")}
    assert run("-i", *sources, "-o", tmp_path / "out") == 3
    assert files_in(tmp_path / "out") == ["b.nii"]
    assert "unexpected ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_sources_are_never_overwritten(tmp_path, model, capsys):
    source = volume_at(tmp_path / "in" / "a.nii")
    before = source.read_bytes()
    for entry, out in ((source.parent, source.parent), (source, source), (source, source.parent)):
        assert run("-i", entry, "-o", out, "--overwrite") == 2
    assert source.read_bytes() == before
    assert capsys.readouterr().err.count("error: ") == 3


def test_results_below_the_sources_are_not_translated_again(tmp_path, model):
    volume_at(tmp_path / "in" / "a.nii")
    for _ in range(2):
        assert run("-i", tmp_path / "in", "-o", tmp_path / "in" / "out") == 0
    assert files_in(tmp_path / "in") == ["a.nii", "out/a.nii"]


@pytest.mark.parametrize(
    ("out", "message"),
    [("one.nii.gz", "give a folder as OUT"), ("file.txt", "give a folder as OUT"), ("file.txt/x", "cannot be written")],
)
def test_an_out_that_cannot_be_is_refused_before_the_work(tmp_path, monkeypatch, capsys, out, message):
    loads(monkeypatch, None)
    volume_at(tmp_path / "in" / "a.nii")
    (tmp_path / "file.txt").write_text("hello")
    assert run("-i", tmp_path / "in", "-o", tmp_path / out) == 2
    assert message in capsys.readouterr().err


def test_a_model_or_contrast_that_is_not_there_is_one_line_and_2_where_earlier_results_are_too(tmp_path, model, capsys):
    source = volume_at(tmp_path / "a.nii")
    assert run("-i", source, "-o", tmp_path / "out") == 0  # to T2
    for out, *more in (["new"], ["out"], ["out", "--dry-run"]):
        command = ["-i", str(source), "-o", str(tmp_path / out), "--model", MODEL, *more]
        capsys.readouterr()
        assert main(command) == main([*command, "--to", "PD"]) == 2
        nameless, unknown = capsys.readouterr().err.splitlines()
        assert "name the one to make (--to)" in nameless and "does not make 'PD' but T1 and T2" in unknown
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_not_there_is_one_line_and_2(tmp_path, capsys):
    command = ["-i", str(volume_at(tmp_path / "a.nii")), "-o", str(tmp_path / "out"), "--to", "T2", "--model"]
    assert main([*command, str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'none'}: no such model") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_quiet_prints_failures_and_nothing_else(tmp_path, model, capfd):
    source = volume_at(tmp_path / "a.nii")
    assert run("-i", source, tmp_path / "b.nii", "-o", tmp_path / "out", "--quiet") == 3
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: {tmp_path / 'b.nii'}: no such file, or a link to nowhere; check the path\n"


def test_a_checkpoint_on_disk_translates_by_the_command_as_by_the_example_of_the_python_function(tmp_path, monkeypatch):
    preprocess = {"size": 32, "spacing_mm": {"in_plane": 8.0, "through_plane": 10.0}}
    sections = {"generator": {"width": 2, "depth": 4}, "preprocess": preprocess}
    monkeypatch.chdir(tmp_path)
    untrained_model(Path("runs/ixi/checkpoints/latest.pt"), sections)
    source = volume_at(Path("scan_t1.nii.gz"))
    assert (
        main(["-i", "scan_t1.nii.gz", "-o", "out.nii.gz", "--model", "runs/ixi", "--to", "T2", "--device", "cpu"]) == 0
    )
    before, after = nib.load(source), nib.load("out.nii.gz")
    assert before.shape == after.shape and np.array_equal(before.affine, after.affine)
    assert after.header["descrip"].item() == b"not for clinical use; synthetic T2, cyclegan trial"
    assert after.get_fdata().std() > 0
    (example,) = doctest.DocTestFinder(recurse=False).find(translate, globs={"translate": translate, "nibabel": nib})
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(failed=0, attempted=2)
    assert np.array_equal(nib.load("scan_t2.nii.gz").dataobj, after.dataobj)
