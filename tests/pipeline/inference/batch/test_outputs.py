"""Where translations go: never outside OUT, one for every name, whatever links and dots the names hold."""

import logging
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from volume_cases import PIXDIM, patched

from pipeline.inference.batch.existing import is_whole
from pipeline.inference.batch.outputs import plan_jobs
from pipeline.utils.arguments import path_argument
from pipeline.utils.errors import UserError


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


LAYOUTS = [  # files, what is named of them, and the targets below OUT
    ("d/IXI002-T1.nii.gz", "d/IXI002-T1.nii.gz", "IXI002-T1.nii.gz"),
    ("in/a.nii in/site/b.nii.gz in/.hidden/c.nii.gz in/notes.txt", "in", "a.nii site/b.nii.gz"),
    ("p1/T1.nii.gz p2/T1.nii.gz", "p1 p2", "p1/T1.nii.gz p2/T1.nii.gz"),
    ("p1/T1.nii.gz p2/T1.nii.gz", "p1/T1.nii.gz p2/T1.nii.gz", "p1/T1.nii.gz p2/T1.nii.gz"),
    ("in/a.nii", "in/a.nii in in/../in/a.nii", "a.nii"),
    ("in/a.hdr in/a.img", "in", "a.nii.gz"),
    ("in/a.hdr in/a.img", "in/a.img in/a.hdr", "a.nii.gz"),
    ("in/b.mgz", "in", "b.nii.gz"),
    ("d/c.nii in/a.nii in/a.nii.gz in/site/b.nii", "d in", "c.nii a.nii a.nii.gz site/b.nii"),
    ("d/c.nii in/a.hdr in/a.img in/a.nii.gz", "d in", "c.nii a.nii.gz a.nii.gz"),
    ("p1/T1.nii p1/T1.nii.gz p2/T1.nii.gz", "p1 p2", "p1/T1.nii p1/T1.nii.gz p2/T1.nii.gz"),
]


@pytest.mark.parametrize(("files", "inputs", "targets"), LAYOUTS)
def test_a_tree_is_mirrored_and_every_volume_has_one_target(tmp_path, monkeypatch, files, inputs, targets):
    monkeypatch.chdir(tmp_path)
    for name in files.split():
        touched(Path(name))
    jobs = plan_jobs([Path(name) for name in inputs.split()], Path("out"))
    assert [job.target.relative_to("out").as_posix() for job in jobs] == targets.split()


@pytest.mark.parametrize("names", ["a.hdr a.img a.nii.gz b.nii", "a.nii a.nii.gz b.nii"])
def test_scans_of_one_name_fail_and_no_other(tmp_path, names):
    for name in names.split():
        touched(tmp_path / name)
    jobs = plan_jobs([tmp_path], tmp_path / "out")
    assert [job.status for job in jobs] == ["failed", "failed", "not done"]
    message = f"{names.split()[0]} and a.nii.gz would be one volume; move one away"
    assert all(message in job.message for job in jobs[:2])


def test_linked_folders_are_searched_and_not_in_circles(tmp_path):
    touched(tmp_path / "elsewhere" / "a.nii")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    assert [job.target.name for job in plan_jobs([tmp_path / "in"], tmp_path / "out")] == ["a.nii"]


def test_names_that_clash_and_hold_dots_stay_below_out(tmp_path, monkeypatch):
    touched(tmp_path / "p1" / "T1.nii.gz"), touched(tmp_path / "here" / "p2" / "T1.nii.gz")
    monkeypatch.chdir(tmp_path / "here")
    jobs = plan_jobs([Path("../p1/T1.nii.gz"), Path("p2/T1.nii.gz")], Path("out"))
    assert [job.target.as_posix() for job in jobs] == ["out/p1/T1.nii.gz", "out/here/p2/T1.nii.gz"]


def test_two_names_linked_to_one_file_are_two_volumes(tmp_path, monkeypatch):
    stored = touched(tmp_path / "store" / "MD5-1.nii.gz")
    for subject in ("s1", "s2"):
        (tmp_path / "in" / subject).mkdir(parents=True)
        (tmp_path / "in" / subject / "T1.nii.gz").symlink_to(stored)
    out = tmp_path / "out"
    targets = [out / "s1" / "T1.nii.gz", out / "s2" / "T1.nii.gz"]
    assert [job.target for job in plan_jobs([tmp_path / "in"], out)] == targets
    monkeypatch.chdir(tmp_path)
    several = [Path("in/s1/T1.nii.gz"), Path("in/s2/../s1/T1.nii.gz"), tmp_path / "in" / "s1" / "T1.nii.gz"]
    assert [job.target for job in plan_jobs(several, out)] == [out / "T1.nii.gz"]  # one name, written in three ways


@pytest.mark.parametrize("name", ["x.hdr", "x.IMG", "x.mha", "x.nrrd"])
def test_a_volume_of_another_kind_as_out_is_refused_and_no_folder_of_that_name(tmp_path, name):
    source = touched(tmp_path / "a.nii")
    with pytest.raises(UserError, match=rf"{name}: volumes are written as \.nii or \.nii\.gz; choose such a name"):
        plan_jobs([source], tmp_path / name)
    (tmp_path / name).mkdir()
    assert [job.target for job in plan_jobs([source], tmp_path / name)] == [tmp_path / name / "a.nii"]


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_path_is_not_the_folder_one_is_in(text, capsys):
    door = ArgumentParser()
    door.add_argument("-i", nargs="+", type=path_argument)
    assert door.parse_args(["-i", ".", "a b"]).i == [Path(), Path("a b")]
    with pytest.raises(SystemExit):
        door.parse_args(["-i", text])
    assert "argument -i: an empty path; is a variable of the shell not set?" in capsys.readouterr().err


def test_a_file_whose_header_nibabel_would_mend_is_looked_at_without_a_word(tmp_path, capsys, monkeypatch):
    content = patched({PIXDIM + 4: np.float32(0)})
    (tmp_path / "a.nii").write_bytes(content)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as outside of pytest
    assert is_whole(tmp_path / "a.nii") and capsys.readouterr() == ("", "")
