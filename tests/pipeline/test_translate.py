import doctest
import os
import subprocess
import sys
from pathlib import Path

import ixi_like
import nibabel as nib
import numpy as np
import pytest
from negative_model import MODEL, files_in, loads, run, volume_at
from small_checkpoints import untrained_model

import pipeline.translate
from pipeline.inference.translator import translate
from pipeline.translate import main

ROOT = Path(pipeline.translate.__file__).parents[1]


def test_a_file_becomes_the_file_named(tmp_path, model, capsys):
    source = volume_at(tmp_path / "in.nii.gz")
    assert run("-i", source, "-o", tmp_path / "new" / "out.nii") == 0
    before, after = nib.load(source), nib.load(tmp_path / "new" / "out.nii")
    assert np.array_equal(before.affine, after.affine) and before.shape == after.shape
    middle = tuple(length // 2 for length in before.shape)
    assert before.dataobj[middle] > 400 > after.dataobj[middle]
    printed = capsys.readouterr().out
    assert "in.nii.gz  translated" in printed and "1 translated" in printed


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


def test_a_model_or_contrast_that_is_not_there_is_one_line_and_2(tmp_path, model, monkeypatch, capsys):
    source = volume_at(tmp_path / "a.nii")
    assert main(["-i", str(source), "-o", str(tmp_path / "out"), "--model", "any", "--to", "PD"]) == 2
    assert main(["-i", str(source), "-o", str(tmp_path / "out"), "--model", "any"]) == 2
    monkeypatch.undo()
    assert main(["-i", str(source), "-o", str(tmp_path / "out"), "--model", str(tmp_path / "none"), "--to", "T2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True] * 3
    assert "does not make 'PD' but T1 and T2" in lines[0]
    assert "name the one to make (--to)" in lines[1]
    assert "none: no such model" in lines[2]
    assert not (tmp_path / "out").exists()


def test_a_contrast_that_the_model_does_not_make_is_refused_where_earlier_results_are_too(tmp_path, model, capsys):
    source = volume_at(tmp_path / "a.nii")
    assert run("-i", source, "-o", tmp_path / "out") == 0  # to T2
    command = ["-i", str(source), "-o", str(tmp_path / "out"), "--model", MODEL]
    for more in ([], ["--dry-run"]):
        capsys.readouterr()
        assert main([*command, *more]) == main([*command, *more, "--to", "PD"]) == 2
        nameless, unknown = capsys.readouterr().err.splitlines()
        assert "name the one to make (--to)" in nameless and "does not make 'PD' but T1 and T2" in unknown
    assert main([*command, "--to", "T1"]) == 2
    assert "out/a.nii holds a synthetic T2" in capsys.readouterr().err


def test_quiet_prints_failures_and_nothing_else(tmp_path, model, capfd):
    source = volume_at(tmp_path / "a.nii")
    assert run("-i", source, tmp_path / "b.nii", "-o", tmp_path / "out", "--quiet") == 3
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: {tmp_path / 'b.nii'}: no such file, or a link to nowhere; check the path\n"


def test_the_python_function_takes_images_and_paths(tmp_path, model):
    source = ixi_like.ixi_t1(scale=8)
    from_image = translate(source, model, "T2")
    from_path = translate(volume_at(tmp_path / "a.nii"), model, "T2", tmp_path / "b.nii", batch_size=3)
    assert np.array_equal(nib.load(tmp_path / "b.nii").dataobj, from_path.dataobj)
    assert np.array_equal(from_image.dataobj, from_path.dataobj)
    assert np.array_equal(from_image.affine, source.affine)


def test_help_and_version_answer_without_the_heavy_libraries():
    program = (
        "import sys; from pipeline.translate import main; codes = [main(['--help']), main(['--version']), main([])];"
        "heavy = {'torch', 'monai', 'mlflow', 'scipy', 'SimpleITK'} & set(sys.modules);"
        "sys.exit(f'{codes} {heavy}' if heavy or codes != [0, 0, 2] else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"}
    )
    assert ended.returncode == 0, ended.stderr
    assert "exit codes: 0 everything is there" in ended.stdout


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
