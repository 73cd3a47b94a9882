"""The summary of a translation command falls on nothing else."""

import json
from pathlib import Path

import pytest
from negative_model import batch, files_in, loads, run, volume_at

from pipeline.inference.batch.jobs import FAILED, SKIPPED, TRANSLATED, Job
from pipeline.inference.batch.summary import MAX_ROWS, outcome_table


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("folder.json", "is a folder, and a file is to be written there"),
        ("text/x.json", "cannot be written (Not a directory)"),
        ("a.nii", "the summary is JSON; give a name that ends in .json"),
    ],
)
def test_a_summary_that_could_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys, place, reason):
    loads(monkeypatch, None)
    source = volume_at(tmp_path / "a.nii")
    (tmp_path / "folder.json").mkdir(), (tmp_path / "text").touch()
    assert run("-i", source, "-o", tmp_path / "out", "--summary", tmp_path / place) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / place}: {reason}" in error and error.count("\n") == 1
    assert files_in(tmp_path) == ["a.nii", "text"]


@pytest.mark.parametrize(
    ("name", "content"), [("out/summary.json", "mine"), ("out/summary.json", '{"format": 1}'), ("mine.json", "[]")]
)
def test_a_file_of_others_in_the_summarys_place_stays_unless_told_to_overwrite(tmp_path, model, capsys, name, content):
    volume_at(tmp_path / "in" / "a.nii")
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(content)
    command = ("-i", tmp_path / "in", "-o", tmp_path / "out", *(["--summary", place] if name == "mine.json" else []))
    assert run(*command) == 2
    assert f"{place}: is there and is no summary of this command; move it away" in capsys.readouterr().err
    assert files_in(tmp_path / "out") == [] and place.read_text() == content
    assert run(*command, "--overwrite") == 0
    assert json.loads(place.read_text())["totals"]["translated"] == 1
    assert run(*command) == 0  # our own


def test_it_ends_with_where_translations_are(tmp_path, model, capsys):
    source = volume_at(tmp_path / "in" / "a.nii")
    assert run("-i", source, "-o", tmp_path / "out") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {tmp_path / 'out' / 'a.nii'}"
    assert run("-i", source, "-o", tmp_path / "out") == 0
    assert "written" not in capsys.readouterr().out
    for name in ("b", "c/d"):
        volume_at(tmp_path / "in" / f"{name}.nii")
    assert batch(tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written below {tmp_path / 'out'}"


def test_a_long_batch_ends_in_its_counts_and_what_was_wrong():
    jobs = [Job(Path(f"{index}.nii"), Path("out"), TRANSLATED) for index in range(MAX_ROWS + 1)]
    assert outcome_table(jobs) == f"{MAX_ROWS + 1} translated"
    assert len(outcome_table(jobs[1:]).splitlines()) == MAX_ROWS + 3
    jobs[3] = Job(Path("3.nii"), Path("out"), FAILED, error="broken")
    jobs[4] = Job(Path("4.nii"), Path("out"), SKIPPED, warnings=["doubtful"])
    lines = outcome_table(jobs).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["3.nii", "4.nii", str(MAX_ROWS - 1)]
    assert lines[-1] == f"{MAX_ROWS - 1} translated, 1 failed, 1 skipped"
