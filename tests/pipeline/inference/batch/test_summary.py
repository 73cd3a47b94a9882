"""The summary of a translation command: it falls on nothing else, and a repetition does not forget."""

import json
from pathlib import Path

import pytest
from negative_model import files_in, loads, run, volume_at

from pipeline.inference.batch.jobs import FAILED, SKIPPED, TRANSLATED, Job
from pipeline.inference.batch.summary import MAX_ROWS, outcome_table, restore_skipped


@pytest.mark.parametrize("name", ["a", "out/a.nii.gz", "list.txt", "other.img", "OTHER.NII"])
def test_a_summary_that_would_overwrite_something_is_refused(tmp_path, monkeypatch, capsys, name):
    loads(monkeypatch, None)
    volume_at(tmp_path / "a.nii").rename(tmp_path / "a")
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'a'}\n")
    before = (tmp_path / "a").read_bytes()
    told = tmp_path / name
    assert run("--input-list", tmp_path / "list.txt", "-o", tmp_path / "out", "--summary", told) == 2
    assert f"--summary {told}: is a volume's path, or holds what is read" in capsys.readouterr().err
    assert files_in(tmp_path) == ["a", "list.txt"] and (tmp_path / "a").read_bytes() == before


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("folder", "is a folder, and a file is to be written there"),
        ("/proc/x.json", "cannot be written (No such file or directory)"),
        ("text/x.json", "cannot be written (Not a directory)"),
    ],
)
def test_a_summary_that_could_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys, place, reason):
    loads(monkeypatch, None)
    source = volume_at(tmp_path / "a.nii")
    (tmp_path / "folder").mkdir(), (tmp_path / "text").touch()
    assert run("-i", source, "-o", tmp_path / "out", "--summary", tmp_path / place) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / place}: {reason}") and error.count("\n") == 1
    assert files_in(tmp_path) == ["a.nii", "text"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_list_of_one_path_may_have_a_file_as_out(tmp_path, model, whole):
    source, target = volume_at(tmp_path / "a.nii"), tmp_path / "x.nii.gz"
    if not whole:
        source.write_text("no volume")
    (tmp_path / "list.txt").write_text(f"{source}\n")
    assert run("--input-list", tmp_path / "list.txt", "-o", target) == (0 if whole else 2)
    assert target.is_file() == whole and not target.is_dir()


def test_a_repetition_keeps_what_the_first_summary_told(tmp_path, model):
    volume_at(tmp_path / "in" / "a.nii")
    out = tmp_path / "out"
    assert run("-i", tmp_path / "in", "-o", out) == 0
    first = json.loads((out / "summary.json").read_text())
    first["volumes"][0] |= {"warnings": ["doubtful"], "seconds": 7.5}
    (out / "summary.json").write_text(json.dumps(first))
    volume_at(tmp_path / "in" / "b.nii")
    for _ in range(2):
        assert run("-i", tmp_path / "in", "-o", out) == 0
        told = json.loads((out / "summary.json").read_text())
        (volume,) = (volume for volume in told["volumes"] if volume["source"].endswith("a.nii"))
        assert (volume["status"], volume["warnings"], volume["seconds"]) == ("skipped", ["doubtful"], 7.5)
        assert told["model"] == first["model"] != {}


ENTRY = {"target": "out/a.nii", "seconds": 1.0, "warnings": ["w"]}
DAMAGED = {
    "cut short": '{"volumes": [',
    "no object": "[]",
    "too deep": "[" * 100_000,
    "other volumes": json.dumps({"volumes": {"a": 1}, "model": {"to": "T2"}}),
    "no numbers": json.dumps({"volumes": [ENTRY | {"seconds": "a second"}], "model": {}}),
    "another OUT": json.dumps({"volumes": [ENTRY | {"target": "else/a.nii"}], "model": {"to": "T2"}}),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_summary_says_nothing(tmp_path, kind):
    (tmp_path / "told.json").write_text(DAMAGED[kind])
    job = Job(Path("a.nii"), Path("out/a.nii"), status=SKIPPED)
    assert restore_skipped(tmp_path / "told.json", [job]) == {}
    assert (job.seconds, job.warnings) == (0.0, [])


@pytest.mark.parametrize("content", ["mine", '{"format": 1}', "[]"])
def test_a_summary_of_others_stays_unless_told_to_overwrite(tmp_path, model, capsys, content):
    volume_at(tmp_path / "in" / "a.nii")
    place = tmp_path / "out" / "summary.json"
    place.parent.mkdir()
    place.write_text(content)
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out") == 2
    assert f"{place}: is there and is no summary of this command; move it away" in capsys.readouterr().err
    assert [path.name for path in place.parent.iterdir()] == ["summary.json"] and place.read_text() == content
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out", "--overwrite") == 0
    assert json.loads(place.read_text())["totals"]["translated"] == 1
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out") == 0  # our own


def test_a_long_batch_ends_in_its_counts_and_what_was_wrong():
    jobs = [Job(Path(f"{index}.nii"), Path("out"), TRANSLATED) for index in range(MAX_ROWS + 1)]
    assert outcome_table(jobs) == f"{MAX_ROWS + 1} translated"
    assert len(outcome_table(jobs[1:]).splitlines()) == MAX_ROWS + 3
    jobs[3] = Job(Path("3.nii"), Path("out"), FAILED, error="broken")
    jobs[4] = Job(Path("4.nii"), Path("out"), SKIPPED, warnings=["doubtful"])
    lines = outcome_table(jobs).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["3.nii", "4.nii", str(MAX_ROWS - 1)]
    assert lines[-1] == f"{MAX_ROWS - 1} translated, 1 failed, 1 skipped"
