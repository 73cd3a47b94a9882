"""Where translations go: never outside OUT, one for every name, whatever links and dots the names hold."""

import os
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.files import is_file
from pipeline.translation import places
from pipeline.translation.jobs import Job
from pipeline.translation.places import plan


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_names_that_clash_and_hold_dots_stay_below_out(tmp_path, monkeypatch):
    touched(tmp_path / "p1" / "T1.nii.gz"), touched(tmp_path / "here" / "p2" / "T1.nii.gz")
    monkeypatch.chdir(tmp_path / "here")
    jobs = plan([Path("../p1/T1.nii.gz"), Path("p2/T1.nii.gz")], Path("out"))
    assert [job.target.as_posix() for job in jobs] == ["out/p1/T1.nii.gz", "out/here/p2/T1.nii.gz"]


def test_a_target_outside_out_is_refused(tmp_path, monkeypatch):
    source = touched(tmp_path / "a.nii")
    monkeypatch.setattr(places, "_placed", lambda found, out: [Job(source, out / ".." / "a.nii")])
    with pytest.raises(UserError, match=r"a\.nii: its translation would lie outside .*out"):
        plan([source], tmp_path / "out")


def test_two_names_linked_to_one_file_are_two_volumes(tmp_path, monkeypatch):
    stored = touched(tmp_path / "store" / "MD5-1.nii.gz")
    for subject in ("s1", "s2"):
        (tmp_path / "in" / subject).mkdir(parents=True)
        (tmp_path / "in" / subject / "T1.nii.gz").symlink_to(stored)
    out = tmp_path / "out"
    targets = [out / "s1" / "T1.nii.gz", out / "s2" / "T1.nii.gz"]
    assert [job.target for job in plan([tmp_path / "in"], out)] == targets
    monkeypatch.chdir(tmp_path)
    several = [Path("in/s1/T1.nii.gz"), Path("in/s2/../s1/T1.nii.gz"), tmp_path / "in" / "s1" / "T1.nii.gz"]
    assert [job.target for job in plan(several, out)] == [out / "T1.nii.gz"]  # one name, written in three ways


def test_a_name_too_long_is_no_file():
    assert not is_file(Path("n" * 300))
    assert [job.source.name for job in plan([Path("n" * 300 + ".img"), Path("a.nii")], Path("o" * 300))] == [
        "n" * 300 + ".img",
        "a.nii",
    ]
    assert not os.path.lexists("o" * 300)
