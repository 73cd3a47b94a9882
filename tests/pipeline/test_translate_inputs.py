"""Which volumes a translation command takes: lists, links, odd names, and the dry run that says so."""

import io
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from negative_model import batch, files_in, run, statuses, summary_of, volume_at

from pipeline.translate import main


def test_a_list_of_inputs_may_stand_alone_or_beside_others(tmp_path, model, monkeypatch):
    for name in ("a.nii", "naïve name $(x).nii", "c.nii"):
        volume_at(tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("\ufeff  in/a.nii\t\r\n \n# a comment\nin/naïve name $(x).nii", encoding="utf-8")
    assert run("--input-list", "list.txt", "-o", "alone") == 0
    assert files_in(tmp_path / "alone") == ["a.nii", "naïve name $(x).nii"]
    assert run("--input-list", "list.txt", "-i", "in/c.nii", "-o", "both") == 0
    assert files_in(tmp_path / "both") == ["a.nii", "c.nii", "naïve name $(x).nii"]
    assert (tmp_path / "alone" / "summary.json").exists()


def test_a_list_may_come_from_standard_input(tmp_path, model, monkeypatch):
    source = volume_at(tmp_path / "a.nii")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{source}\n".encode())))
    assert run("--input-list", "-", "-o", tmp_path / "out") == 0
    assert files_in(tmp_path / "out") == ["a.nii"]


LISTS = {
    "UTF-16": ("a.nii\n".encode("utf-16"), "list.txt: is no text in UTF-8; give one path per line"),
    "empty": (b"# nothing\n\n", "no volumes given; name files or folders with -i, or a list of them with --input-list"),
    "missing": (None, "list.txt: the list cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("kind", LISTS)
def test_what_is_no_list_is_refused_in_a_line(tmp_path, model, capsys, kind):
    content, message = LISTS[kind]
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    assert run("--input-list", tmp_path / "list.txt", "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_dangling_and_looping_links_fail_by_name_and_alone(tmp_path, model, capsys):
    volume_at(tmp_path / "in" / "a.nii")
    (tmp_path / "in" / "dangling.nii").symlink_to(tmp_path / "nowhere.nii")
    (tmp_path / "in" / "loop.nii").symlink_to(tmp_path / "in" / "loop.nii")
    assert batch(tmp_path) == 3
    assert statuses(tmp_path / "out") == {"a.nii": "translated", "dangling.nii": "failed", "loop.nii": "failed"}
    assert files_in(tmp_path / "out") == ["a.nii"]
    assert run("-i", tmp_path / "in" / "loop.nii", "-o", tmp_path / "alone") == 2


def test_names_that_are_no_text_or_not_one_line_are_printed_as_one(tmp_path, model, capsys):
    odd = [os.fsdecode(b"caf\xe9.nii"), "two\nlines\x1b[31m.nii", "-i.nii", "; touch pwned.nii", "n" * 220 + ".nii"]
    for name in odd:
        volume_at(tmp_path / "in" / "plain.nii").rename(tmp_path / "in" / name)
    assert batch(tmp_path) == 0
    printed = capsys.readouterr().out
    assert (
        "two\\nlines\\x1b[31m.nii " in printed and len(printed.splitlines()) == 4 + len(odd) and "\x1b" not in printed
    )
    assert "caf\\udce9.nii" in printed
    assert {os.fsencode(path) for path in (tmp_path / "out").rglob("*.nii")} == {
        os.fsencode(tmp_path / "out" / name) for name in odd
    }
    assert summary_of(tmp_path / "out")["totals"]["translated"] == len(odd)


def test_odd_names_in_messages_are_whole_and_hold_no_terminal_codes(tmp_path, model, capsys):
    for name in ("a\x1b[31m\nb.nii", "a\x1b[31m\nb.nii.gz", "c  d\n.nii"):
        volume_at(tmp_path / "in" / "plain.nii.gz").rename(tmp_path / "in" / name)
    assert batch(tmp_path) == 2
    (tmp_path / "in" / "c  d\n.nii").rename(tmp_path / "c  d\n.nii")
    assert run("-i", tmp_path / "c  d\n.nii", "-o", tmp_path / "c  d\n.nii") == 2
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err and len(printed.out.splitlines()) == 3 + 3
    assert "a\\x1b[31m\\nb.nii and a\\x1b[31m\\nb.nii.gz would be one volume" in printed.out
    assert f"error: {tmp_path}/c  d\\n.nii: OUT would overwrite a source" in printed.err
    errors = {Path(entry["source"]).name: entry["error"] for entry in summary_of(tmp_path / "out")["volumes"]}
    assert errors["c  d\n.nii"].startswith(f"{tmp_path}/in/c  d\\n.nii: ")


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_a_dry_run_says_what_would_go_where_and_writes_nothing(tmp_path, model, capsys, overwrite):
    volume_at(tmp_path / "in" / "a.nii"), volume_at(tmp_path / "in" / "b.nii")
    assert run("-i", tmp_path / "in" / "b.nii", "-o", tmp_path / "out") == 0
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert batch(tmp_path, "--dry-run", *overwrite) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == [str(tmp_path / "in" / "a.nii"), str(tmp_path / "out" / "a.nii"), "translate"]
    assert lines[3].split()[-1] == ("translate" if overwrite else "skip")
    assert lines[-1] == "nothing was written"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", ["-i {a} -o {long}.nii.gz", "-i {a} -o {long}", "-i {long}.nii -o {a}.gz"])
def test_names_too_long_for_the_disk_are_one_line(tmp_path, model, capfd, arguments):
    paths = {"a": volume_at(tmp_path / "a.nii"), "long": tmp_path / ("n" * 300)}
    assert run(*arguments.format(**paths).split(), "--quiet") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and "nnn" in line


@pytest.mark.parametrize("option", [("--bids-suffix", "T1w", "T2w"), ("--skull-stripped", "yes")])
def test_options_of_bids_alone_are_refused_without_it(tmp_path, model, capsys, option):
    assert run("-i", volume_at(tmp_path / "a.nii"), "-o", tmp_path / "out", *option) == 2
    assert f"{option[0]} goes with --bids alone" in capsys.readouterr().err


def test_a_dry_run_refuses_what_is_missing(tmp_path, model, capsys):
    names = [volume_at(tmp_path / "a.nii"), tmp_path / "gone.nii", tmp_path / ("n" * 300)]
    assert run("-i", *names, "-o", tmp_path / "out", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()[2:5]
    assert [line.endswith("refuse: no such file") for line in lines] == [False, True, True]


def test_a_dry_run_refuses_a_model_that_is_not_there(tmp_path, capsys):
    command = ["-i", str(volume_at(tmp_path / "a.nii")), "-o", str(tmp_path / "out"), "--dry-run", "--to", "T2"]
    assert main([*command, "--model", "models:/none@best"]) == 2
    assert "error: models:/none@best: there is no MLflow store" in capsys.readouterr().err
    assert main([*command, "--model", "box"]) == 0


def test_freesurfers_mgz_becomes_a_nifti_on_its_grid(tmp_path, model, capsys):
    source = nib.load(volume_at(tmp_path / "plain" / "b.nii.gz"))
    (tmp_path / "in").mkdir()
    nib.save(nib.MGHImage(np.asarray(source.dataobj).astype(np.int16), source.affine), tmp_path / "in" / "b.mgz")
    assert run("-i", tmp_path / "plain", "-o", tmp_path / "one") == 0
    assert run("-i", tmp_path / "in", "-o", tmp_path / "two") == 0
    assert files_in(tmp_path / "two") == ["b.nii.gz"]
    first, second = (nib.load(tmp_path / out / "b.nii.gz") for out in ("one", "two"))
    assert np.array_equal(first.get_fdata(), second.get_fdata()) and np.allclose(first.affine, second.affine, atol=1e-4)
    assert second.header["sform_code"] == second.header["qform_code"] == 1 and second.header.get_xyzt_units()[0] == "mm"
    capsys.readouterr()
    assert run("-i", tmp_path / "in", "-o", tmp_path / "two") == 0
    assert "1 skipped" in capsys.readouterr().out
    assert run("-i", tmp_path / "in" / "b.mgz", "-o", tmp_path / "x.mgz") == 2  # written as NIfTI alone
