import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from finished_runs import finished_run
from sweep_runs import config, did

from pipeline.config.load import load_config
from pipeline.run_config import fingerprint
from pipeline.sweep import main
from pipeline.sweeping import sweep_jobs

ROOT = Path(__file__).parents[2]


def test_runs_are_done_in_turn_and_one_that_fails_keeps_none_from_being_done(workspace, capsys):
    assert main([config("one"), config("bad"), config("two"), "training.epochs=3"]) == 3
    changed = "began training.epochs=3 --quiet"
    assert did() == [f"one {changed}", "one done", f"bad {changed}", f"two {changed}", "two done"]
    output = capsys.readouterr()
    assert "failed: bad: exit code 2: error: no such data; runs/sweep/logs/bad.log has the rest" in output.err
    assert "2 of 3 runs are done" in output.out
    log = (workspace / "runs" / "sweep" / "logs" / "bad.log").read_text()
    assert "something odd" in log and "bad.yaml training.epochs=3 --quiet" in log


def test_runs_that_cannot_be_compared_are_said_before_and_after(workspace, capsys):
    finished_run(workspace / "runs", "a")
    finished_run(workspace / "runs", "b", settings={"preprocess": {"size": 128}})
    Path("b.yaml").write_text(Path(config("b")).read_text().replace("size: 112", "size: 128"))
    assert main([config("a"), "b.yaml"]) == 3
    output = capsys.readouterr().err
    assert output.startswith("warning: a and b cannot be compared: preprocess.size is 112 and 128")
    assert "warning: no comparison: these runs cannot be compared" in output
    assert not (workspace / "runs" / "sweep" / "compare.html").exists()


def test_an_output_takes_runs_logs_and_comparison(workspace):
    assert main([config("one"), "-o", "it's here"]) == 0
    assert did()[0] == "one began output='it''s here/one' --quiet"
    assert (workspace / "it's here" / "logs" / "one.log").exists()


def test_all_configurations_are_checked_before_the_first_starts(workspace, capsys):
    arguments = [config("one"), config("two"), "nowhere.yaml", "training.epoch=3"]
    assert main(arguments) == 2
    output = capsys.readouterr().err
    assert output.count("training.epoch = 3: unknown key; the nearest valid key is training.epochs") == 2
    assert "nowhere.yaml: No such file" in output and output.startswith("error: no run was started:\n")
    assert "\\n" not in output
    assert did() == [] and not (workspace / "runs").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lambda: [config("one"), config("one")], "name = one: is that of 2 runs; give each another"),
        (lambda: [config("one", "x"), config("two", "x")], "output = runs/x: is that of 2 runs; give each another"),
        (lambda: ["seed=1"], "no configuration to run"),
    ],
)
def test_runs_that_would_meet_are_refused(workspace, capsys, files, message):
    assert main(files()) == 2
    assert message in capsys.readouterr().err
    assert did() == []


def test_a_setting_longer_than_names_of_files_may_be_is_taken_for_a_setting(workspace, capsys):
    assert main([config("one"), "seed=" + ",".join(map(str, [*range(200), 0]))]) == 2
    assert "seed" in capsys.readouterr().err
    assert did() == []


def test_two_at_once_run_together_each_on_a_device_of_its_own(workspace, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    for names in (("together1", "together2"), ("device1", "device2")):  # the first two wait for each other
        for name in names:
            finished_run(workspace / "runs", name)
        assert main([*map(config, names), "--jobs", "2"]) == 0
    assert sorted(line for line in did() if "saw" in line) == ["device1 saw 4", "device2 saw 7"]


@pytest.fixture
def one_of_two(workspace):
    """Configurations of two runs, of which the first is finished."""
    files = [config("a"), config("b")]
    for name in ("a", "b"):  # so that there is something to compare
        finished_run(workspace / "runs", name)
    (workspace / "runs" / "a" / "report.html").write_text("a page")
    (workspace / "runs" / "a" / "run.json").write_text(
        json.dumps({"configuration": fingerprint(load_config(Path(files[0])))})
    )
    return files


def began():
    return [line.partition(" ")[0] for line in did() if "began" in line]


def test_what_is_finished_is_left_out_and_compared(workspace, one_of_two, capsys):
    assert main(one_of_two) == 0
    assert began() == ["b"]
    output = capsys.readouterr().out
    assert output.startswith("finished before, so skipped: a (--again evaluates anew)\n2/2 b: started")
    assert "2 of 2 runs are done" in output
    assert "Comparison of 2 runs" in (workspace / "runs" / "sweep" / "compare.html").read_text()


@pytest.mark.parametrize("changed", ["--again", "evaluation.protocols=[]", "device=cpu"])
def test_again_or_with_another_configuration_nothing_is_left_out(one_of_two, changed, capsys):
    assert main([*one_of_two, changed]) == 0
    assert began() == ["a", "b"] and "skipped" not in capsys.readouterr().out


def wait_for(text, count=1):
    end = time.monotonic() + 120
    while sum(text in line for line in did()) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_where_no_process_can_be_started_those_under_way_are_stopped(workspace, monkeypatch, capsys):
    start = subprocess.Popen

    def popen(command, **options):
        if any("later" in word for word in command):
            wait_for("ready")
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return start(command, **options)

    monkeypatch.setattr(sweep_jobs.subprocess, "Popen", popen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main([config("long1"), config("later"), "--jobs", "2"]) == 2
    assert [line for line in did() if "saved" in line] == ["long1 saved 2"]  # and main has waited for it
    output = capsys.readouterr().err
    assert output.startswith(
        "error: later: could not be started with its log runs/sweep/logs/later.log (Cannot allocate"
    )
    assert output.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_runs_once_and_is_waited_for(workspace, number):
    files = [config(name) for name in ("one", "long1", "long2", "later")]
    script = "import sys\nfrom pipeline import sweep\nfrom pipeline.sweeping import sweep_jobs\n" \
        "sweep_jobs.COMMAND = (sys.executable, 'actor.py')\nraise SystemExit(sweep.main(sys.argv[1:]))"  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", script, *files, "--jobs", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for("ready", 2)
    os.killpg(process.pid, number)  # as a terminal does: to the whole group
    _, output = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert sorted(line for line in did() if "saved" in line) == [f"long1 saved {number}", f"long2 saved {number}"]
    assert not (workspace / "runs" / "sweep" / "logs" / "later.log").exists()  # it was not even started
    assert "1 of 4 runs are done, still to do: long1, long2, later; the same command goes on from there" in output
