import json

import pytest
from finished_runs import RECORD, bound, finished_run, read_run, read_runs

from pipeline.comparison.runs import runs_of_experiment
from pipeline.utils.errors import UserError


def test_a_run_is_read_with_its_figures_and_costs(tmp_path):
    folder = finished_run(tmp_path, "mine", 13.0)
    run = read_run(folder)
    assert (run.label, run.method, run.is_bound, run.mlflow_id) == ("mine", "cyclegan", False, None)
    (folder / "mlflow.json").write_text('{"run_id": "abc", "uri": "sqlite:///x"}')
    assert read_run(folder).mlflow_id == "abc"
    figures = run.by_scan["T1", "T2", "model"]
    assert figures["foreground/psnr"]["s3"] == 15.0
    assert set(figures) == {"foreground/psnr", "foreground/ssim", "foreground/mae"}  # no whole image, no slices
    assert run.all_parameters == 2_500_000
    assert run.hardware == "cpu, 1 threads, float32"


def test_a_figure_that_is_missing_or_infinite_is_read_as_that(tmp_path):
    folder = finished_run(tmp_path, "mine", extra={"volume/foreground/odd": float("nan")})
    scores = json.loads((folder / "scores.json").read_text())
    row = next(row for row in scores["subjects"] if row["metric"] == "psnr")
    row["value"] = "inf"
    (folder / "scores.json").write_text(json.dumps(scores))
    figures = read_run(folder).by_scan["T1", "T2", "model"]
    assert figures["foreground/psnr"]["s1"] == float("inf")
    assert figures["foreground/odd"]["s1"] != figures["foreground/odd"]["s1"]  # NaN


def test_an_older_run_without_a_record_is_read_too(tmp_path):
    run = read_run(finished_run(tmp_path, "mine", record=None))
    assert (run.record, run.all_parameters, run.hardware) == ({}, None, "")


def test_all_folders_that_cannot_be_compared_are_named_at_once(tmp_path):
    unfinished = finished_run(tmp_path, "unfinished")
    (unfinished / "scores.json").unlink()
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError) as caught:
        read_runs([unfinished, tmp_path / "other", finished_run(tmp_path, "good")])
    output = str(caught.value)
    assert (
        "unfinished: not finished, for it has no scores.json; run its command again: python -m pipeline.run" in output
    )
    assert "other: not a run's folder" in output and "good" not in output


def test_a_method_that_learns_from_pairs_is_a_bound_whatever_the_split(tmp_path):
    assert read_run(finished_run(tmp_path, "mine", settings=bound())).is_bound is True
    assert read_run(finished_run(tmp_path, "other", settings={"split": {"pairing": "paired"}})).is_bound is False


def test_a_run_whose_evaluation_began_anew_is_not_finished(tmp_path):
    record = {name: value for name, value in RECORD.items() if name != "configuration"}
    with pytest.raises(UserError, match=r"mine: not finished, for its evaluation began anew; run its command again"):
        read_run(finished_run(tmp_path, "mine", record=record))


@pytest.mark.parametrize("content", ["{", "[]", '{"summary": [], "protocols": {}}'])
def test_damaged_scores_are_named(tmp_path, content):
    folder = finished_run(tmp_path, "mine")
    (folder / "scores.json").write_text(content)
    with pytest.raises(UserError, match=r"mine.*(cannot be read|damaged)"):
        read_run(folder)


def test_a_run_without_pairs_has_nothing_to_compare(tmp_path):
    folder = finished_run(tmp_path, "mine")
    (folder / "scores.json").write_text('{"summary": [], "subjects": [], "protocols": {"unpaired": "x"}}')
    with pytest.raises(UserError, match="no pairs, so nothing says which translation is better"):
        read_run(folder)


def test_one_run_given_twice_is_one(tmp_path):
    folder = finished_run(tmp_path, "mine")
    with pytest.raises(UserError, match=r"needs two runs or more, and was given .*mine alone"):
        read_runs([folder, folder / ".." / "mine"])


def test_runs_of_one_name_or_of_a_baselines_are_told_apart_by_their_folders(tmp_path):
    folders = [finished_run(tmp_path / place, "same") for place in ("x", "y")]
    folders += [finished_run(tmp_path, name) for name in ("copy", "mine")]
    assert [run.label for run in read_runs(folders)] == [*map(str, folders[:3]), "mine"]


def test_an_experiments_runs_are_found_by_their_own_configuration(tmp_path, capsys):
    mine = [finished_run(tmp_path / "deep", "b"), finished_run(tmp_path, "a")]
    finished_run(tmp_path, "foreign", settings={"tracking": {"experiment": "another"}})
    (finished_run(tmp_path, "unfinished") / "scores.json").unlink()
    (tmp_path / "config.yaml").write_text("- not a run")
    assert sorted(runs_of_experiment("trial", tmp_path)) == sorted(mine)
    assert capsys.readouterr().err == f"warning: {tmp_path / 'unfinished'}: not finished; left out\n"
    with pytest.raises(UserError, match="no finished run of the experiment 'none'"):
        runs_of_experiment("none", tmp_path)
