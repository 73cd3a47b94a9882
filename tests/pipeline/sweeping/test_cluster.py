import os
import signal
import sys
import time
from pathlib import Path

import pytest
import submitit
from sweep_runs import config, did

from pipeline.sweep import main
from pipeline.sweeping import sweep_jobs
from pipeline.sweeping.cluster import ClusterRun, submit_and_wait
from pipeline.sweeping.sweep_jobs import SweepJob

# Stands in for a cluster that takes jobs and ends none: keeps the script, and answers as Slurm does.
SBATCH = """#!/bin/sh
cp "$1" "$SUBMITTED"
echo Submitted batch job 12
"""


def jobs_of(*names):
    return [
        SweepJob(name, Path("runs") / name, [*sweep_jobs.COMMAND, config(name)], Path("logs") / f"{name}.log")
        for name in names
    ]


def test_runs_are_submitted_and_failures_named_with_their_log(workspace, caplog):
    jobs = [*jobs_of("one", "bad"), SweepJob("before", Path("runs/before"), [], Path("logs/before.log"), 0)]
    submit_and_wait(jobs, submitit.LocalExecutor(workspace / "cluster"), quiet=False)
    assert [job.code for job in jobs] == [0, 2, 0]
    assert sorted(did()) == ["bad began ", "one began ", "one done"]
    assert "bad: exit code 2: error: no such data; logs/bad.log has the rest" in caplog.text
    assert "one: done" in caplog.text


def test_a_job_that_ends_without_an_exit_code_is_named_with_its_own_log(workspace, monkeypatch, caplog):
    monkeypatch.setattr(ClusterRun, "__reduce__", lambda run: (sys.exit, (7,)))  # as a node that fails
    monkeypatch.setattr(submitit.core.core.Job, "_results_timeout_s", 0)
    (job,) = jobs_of("lost")
    submit_and_wait([job], submitit.LocalExecutor(workspace / "cluster"), quiet=True)
    assert job.code == 1 and "lost: job " in job.failure() and "_0_log.err); it printed nothing" in job.failure()


def test_a_run_whose_time_is_up_saves_and_goes_on(workspace):
    executor = submitit.LocalExecutor(workspace / "cluster", max_num_timeout=1)
    executor.update_parameters(timeout_min=0.2, signal_delay_s=7)  # SIGUSR2 after five seconds
    (job,) = jobs_of("long")
    submit_and_wait([job], executor, quiet=True)
    lines = [" ".join(line.split()) for line in did()]
    assert lines.count("long began") == 2 and lines.count(f"long saved {int(signal.SIGTERM)}") == 2
    assert job.code == 1  # given up at the second time


@pytest.fixture
def slurm(workspace, monkeypatch):
    """Stand-ins for Slurm's commands; the fixture is the script that sbatch got."""
    tools = workspace / "tools"
    tools.mkdir()
    for name, text in {
        "sbatch": SBATCH,
        "srun": "",
        "sacct": "",
        "scancel": "#!/bin/sh\necho $* >> cancelled\n",
    }.items():
        (tools / name).write_text(text or "#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SUBMITTED", str(workspace / "script"))
    return workspace / "script"


def test_an_array_of_jobs_goes_to_slurm_and_a_signal_cancels_it(slurm, capsys):
    process = os.fork()
    if not process:  # what Ctrl-C does, once they are submitted
        while not slurm.exists() or not slurm.read_text():
            time.sleep(0.05)
        time.sleep(1)
        os.kill(os.getppid(), signal.SIGINT)
        os._exit(0)
    options = ["--jobs", "2", "--cluster", "slurm", "--slurm", "time=240", "gres=gpu:1", "mem=32GB"]
    assert main([config("one"), "seed=0..2", *options]) == 130
    os.waitpid(process, 0)
    script = slurm.read_text()
    for line in ("--array=0-2%2", "--time=240", "--gres=gpu:1", "--mem=32GB", "--signal=USR2@90", "--job-name=sweep"):
        assert f"#SBATCH {line}\n" in script
    assert f"{sys.executable} -u -m submitit.core._submit" in script and "runs/sweep/logs/slurm" in script
    assert Path("cancelled").read_text().split() == ["12_0", "12_1", "12_2"]
    output = capsys.readouterr()
    assert "1/3 one-seed-0: submitted as job 12_0; runs/sweep/logs/one-seed-0.log" in output.out
    assert "0 of 3 runs are done, still to do: one-seed-0, one-seed-1, one-seed-2" in output.err


def test_all_that_is_wrong_is_said_before_a_job_is_submitted(slurm, capsys):
    options = ["--cluster", "slurm", "--slurm", "parttition=a", "time=1:00", "nodes=2", "what"]
    assert main([config("one"), "training.epoch=3", *options]) == 2
    output = capsys.readouterr().err
    for message in (
        "--slurm parttition=a: unknown key; the nearest is partition", "--slurm time=1:00: must be whole minutes",
        "--slurm nodes=2: a run is one task", "--slurm what: is no key=value", "training.epoch = 3: unknown key",
    ):  # fmt: skip
        assert message in output
    assert not slurm.exists()


def test_what_is_missing_is_named_with_the_remedy(workspace, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main([config("one"), "--cluster", "slurm"]) == 2
    output = capsys.readouterr().err
    assert "--slurm time=MINUTES: missing" in output and "this machine has no Slurm (srun is missing)" in output
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main([config("one"), "--cluster", "slurm"]) == 2
    assert 'pip install -e ".[cluster]"' in capsys.readouterr().err
    assert main([config("one"), "--slurm", "time=3"]) == 2
    assert "--slurm: of --cluster slurm alone" in capsys.readouterr().err
