import json
import math
import re
import sys
from pathlib import Path

import pytest
from small_checkpoints import state
from sweep_runs import config, did

from pipeline.runs.checkpoint import CheckpointFolder
from pipeline.sweep import main
from pipeline.sweeping import optuna_search, sweep_jobs
from pipeline.sweeping.optuna_search import Search, best_score, parse_range, search_settings, validation_scores
from pipeline.sweeping.sweep_jobs import PRUNED, SweepJob, work_through

RANGES = ["--range", "training.learning_rate=1e-4..1e-2:log", "training.epochs=2..9"]


@pytest.fixture
def workspace(workspace, monkeypatch):
    """A folder in which a run's score is highest at a learning rate of 1e-3."""
    monkeypatch.setattr(optuna_search, "best_score", lambda folder: -abs(math.log10(rates()[folder.name]) + 3))
    return workspace


def began():
    return [line.partition(" began ")[2] for line in did() if " began " in line]


def rates():
    """The learning rate of each trial, by its folder's name."""
    found = (re.search(r"learning_rate=(\S+).*/(trial-\d+)'", line) for line in began())
    return {match[2]: float(match[1]) for match in found}


def test_trials_are_done_and_the_same_command_goes_on_with_more(workspace, capsys):
    name = config("one")
    main([name, "--search", "2", *RANGES, "-o", "here"])
    assert (workspace / "here" / "search.db").exists() and list(rates()) == ["trial-0", "trial-1"]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates().values())
    epochs = [re.search(r"epochs=(\S+)", line)[1] for line in began()]
    assert all(text in map(str, range(2, 10)) for text in epochs)
    assert "name='one-trial-1' output='here/one/trial-1'" in began()[1]
    best = min(rates(), key=lambda trial: abs(math.log10(rates()[trial]) + 3))
    assert f"best of 2: {best}, validation score " in capsys.readouterr().out
    main([name, "--search", "3", *RANGES, "-o", "here"])
    assert len(began()) == 3
    in_two = rates()
    assert len(set(in_two.values())) == 3  # none is proposed twice
    Path("did").unlink()
    main([name, "--search", "3", *RANGES, "-o", "there"])
    assert rates() == in_two  # the same proposals, in one session or two


def test_a_trial_whose_run_failed_is_done_again(workspace):
    name = config("bad")
    assert main([name, "--search", "2", *RANGES]) == 3
    first = rates()
    assert len(began()) == 2
    assert main([name, "--search", "2", *RANGES]) == 3
    assert len(began()) == 4 and rates() == first


def test_another_search_is_refused(workspace, capsys):
    name = config("one")
    main([name, "--search", "1", *RANGES])
    assert main([name, "seed=4", "--search", "1", *RANGES]) == 2
    assert "search.db: holds a search of another configuration or other ranges" in capsys.readouterr().err
    assert len(began()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search", "2"], "--search: has nothing to propose"),
        (["--range", "seed=0..3"], "--range: of --search N alone"),
        (["--search", "2", "seed=0,1", *RANGES], "--search: takes one value of each setting"),
        (["--search", "2", "training.epochs=3", *RANGES], "training.epochs: is given twice"),
        (["--search", "2", "--again", *RANGES], "takes no --again"),
        (["--search", "2", "--range", "training.learning_rate=0..1:log"], "a logarithmic range begins above 0"),
        (["--search", "2", "--range", "training.learning_rate=3..1"], "the lower end comes first"),
        (["--search", "2", "--range", "training.learning_rate=3"], "is written key=low..high"),
        (["--search", "2", "--range", "training.epochs=1.5..3"], "training.epochs takes whole numbers"),
        (["--search", "2", "--range", "generator.depth=1.5..3"], "generator.depth takes whole numbers"),  # or null
        (["--search", "2", "--range", "training.learning_rate=-1..1"], "training.learning_rate = -1"),
        (["--search", "2", "--range", "training.rate=0..1"], "training.rate = 0.0: unknown key"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_run(workspace, capsys, arguments, message):
    assert main([config("one"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert did() == []


def test_without_optuna_the_remedy_is_said(workspace, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([config("one"), "--search", "2", *RANGES]) == 2
    assert 'pip install -e ".[search]"' in capsys.readouterr().err


def test_the_score_is_that_of_the_best_checkpoint(tmp_path):
    content = state(3)
    content["position"]["best_scores"] = {"T1": 20.0, "T2": 23.0}
    CheckpointFolder(tmp_path / "checkpoints").save(content, best=("T1", "T2"))
    assert best_score(tmp_path) == 21.5
    assert math.isnan(best_score(tmp_path / "none"))


def test_a_trial_that_stays_below_the_median_is_stopped_and_what_is_left_goes_on(tmp_path, monkeypatch):
    """Six trials score 10 after each of three validations, the seventh 9, the eighth 11."""
    scores = {number: [10.0] * 3 for number in range(6)} | {6: [9.0] * 3, 7: [11.0] * 3}
    monkeypatch.setattr(optuna_search, "best_score", lambda folder: scores[int(folder.name)][-1])
    monkeypatch.setattr(optuna_search, "validation_scores", lambda folder: scores[int(folder.name)])

    def job_of(number, values):
        return SweepJob(f"trial-{number}", tmp_path / str(number), [], tmp_path / "log")

    def work(jobs, is_behind):
        for job in jobs:
            behind = int(job.folder.name) >= 6 and is_behind(job)  # the first end before anyone looks
            job.code, job.ending = (143, PRUNED) if behind else (0, "")

    def search():
        return Search(tmp_path / "search.db", [parse_range("seed=0..99", lambda key: True)], "settings")

    jobs = search_settings(search(), 8, 1, job_of, work)
    assert [job.name for job in jobs] == [f"trial-{number}" for number in (0, 1, 2, 3, 4, 5, 7)]
    assert search().scores() == dict.fromkeys(range(6), 10.0) | {7: 11.0} and search().pending() == []
    assert search().stopped_early() == [6]
    assert search_settings(search(), 8, 1, job_of, lambda jobs, _: pytest.fail("nothing is left to do")) != []


def test_a_trial_is_not_judged_by_its_first_two_validations(tmp_path, monkeypatch):
    monkeypatch.setattr(optuna_search, "STARTUP_TRIALS", 1)
    search = Search(tmp_path / "search.db", [parse_range("seed=0..99", lambda key: True)], "settings")
    first, second = search.propose(), search.propose()
    assert not search.is_behind(first, [10.0, 10.0, 10.0])
    search.tell(first, 10.0)
    assert not search.is_behind(second, []) and not search.is_behind(second, [1.0, 2.0])
    assert search.is_behind(second, [1.0, 2.0, 3.0])
    assert not search.is_behind(second, [1.0, 2.0, 3.0, 11.0])


def test_a_run_that_is_behind_is_stopped_with_its_checkpoint(workspace, monkeypatch, caplog):
    monkeypatch.setattr(sweep_jobs, "JUDGE_S", 0.01)
    caplog.set_level("INFO", "pipeline")
    jobs = [
        SweepJob(name, workspace / name, [*sweep_jobs.COMMAND, config(name)], workspace / "log")
        for name in ("long", "one")
    ]

    def is_behind(job):
        return job.name == "long" and "long ready" in did()

    work_through(jobs, 2, devices=[], quiet=True, is_behind=is_behind)
    assert [(job.code, job.ending) for job in jobs] == [(143, PRUNED), (0, "")]
    assert "long saved 15" in did()
    assert "long: stopped early, for it scores below the median of earlier trials" in caplog.text


def test_scores_so_far_are_those_of_validations_that_are_numbers(tmp_path):
    lines = [{"step": 1, "time": 0, "validation/score": 20.5}, {"step": 2, "time": 0, "loss": 1}]
    lines += [{"step": 3, "time": 0, "validation/score": None}, {"step": 4, "time": 0, "validation/score": 21}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert validation_scores(tmp_path) == [20.5, 21.0]
    assert validation_scores(tmp_path / "none") == []
