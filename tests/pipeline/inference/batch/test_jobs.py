import json
import os
import signal
from pathlib import Path

import ixi_like
import nibabel as nib
import pytest
from negative_model import loads, model_of
from processes import together
from torch import nn

import pipeline.inference.batch.batch
import pipeline.inference.model
from pipeline.inference.batch.jobs import Job, gather_jobs, shard
from pipeline.translate import main
from pipeline.utils.distributed import SINGLE_PROCESS, World


@pytest.fixture
def written(monkeypatch, tmp_path):
    """The names of the volumes written, in order, by all processes; the networks change nothing."""
    translation_model = model_of(nn.Identity(), 0.0, 1000.0, integer=True)
    loads(monkeypatch, lambda uri, device: translation_model)
    log, write = tmp_path / "written.txt", pipeline.inference.batch.batch.write_together

    def noted(files, gone):
        write(files, gone)
        with log.open("a") as lines:  # a short line is appended whole, whoever else is writing
            lines.write(f"{[*files][-1].name}\n")

    monkeypatch.setattr(pipeline.inference.batch.batch, "write_together", noted)
    return lambda: sorted(log.read_text().split()) if log.exists() else []


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        nib.save(ixi_like.ixi_t1(scale=8, seed=number), folder / f"{number}.nii.gz")
    return folder


def translate(scans, tmp_path, before=lambda rank: None):
    """Have two processes translate a folder; return their exit codes."""

    def work(rank):
        before(rank)
        return main(["-i", str(scans), "-o", str(tmp_path / "out"), "--model", "any"])

    return [code for code, _ in together(work, tmp_path / "log")]


def test_every_job_is_one_processs_and_stays_it_whatever_is_done():
    jobs = [Job(Path(f"{number}.nii"), Path("out")) for number in range(7)]
    shares = [shard(jobs, World(rank, 3)) for rank in range(3)]
    assert [[job.source.name for job in jobs_of_rank] for jobs_of_rank in shares] == [
        ["0.nii", "3.nii", "6.nii"], ["1.nii", "4.nii"], ["2.nii", "5.nii"],
    ]  # fmt: skip
    assert shard(jobs, SINGLE_PROCESS) == jobs and shard(jobs[:1], World(1, 2)) == []
    assert gather_jobs(jobs, SINGLE_PROCESS) == jobs


def test_two_processes_killed_and_restarted_write_each_volume_once(written, scans, tmp_path, monkeypatch, capfd):
    whole = [f"{number}.nii.gz" for number in range(5)]
    write = pipeline.inference.batch.batch.write_together

    def die_at_second(rank):
        calls = []

        def write_or_die(files, gone):
            calls.append(files)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            write(files, gone)

        monkeypatch.setattr(pipeline.inference.batch.batch, "write_together", write_or_die)

    assert translate(scans, tmp_path, die_at_second) == [-signal.SIGKILL] * 2
    assert written() == whole[:2]
    assert translate(scans, tmp_path) == [0, 0]
    assert written() == whole
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*whole, "summary.json"]
    assert "2 skipped, 3 translated" in capfd.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [Path(volume["source"]).name for volume in summary["volumes"]] == whole


def test_one_bad_volume_stops_nobody_and_all_end_with_the_same_code(written, scans, tmp_path, capfd):
    (scans / "1.nii.gz").write_text("no volume")
    assert translate(scans, tmp_path) == [3, 3]
    assert written() == ["0.nii.gz", "2.nii.gz", "3.nii.gz", "4.nii.gz"]
    assert "1.nii.gz" in capfd.readouterr().out


def test_a_signal_while_waiting_for_the_others_leaves_a_summary_of_all(written, scans, tmp_path):
    assert translate(scans, tmp_path) == [0, 0]
    (tmp_path / "out" / "1.nii.gz").unlink(), (tmp_path / "out" / "summary.json").unlink()

    def work(rank):
        if rank == 1:  # never comes: whoever waits for it must answer signals still
            return 0
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        return main(["-i", str(scans), "-o", str(tmp_path / "out"), "--model", "any"])

    assert [code for code, _ in together(work, tmp_path / "log")] == [143, 0]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [volume["status"] for volume in summary["volumes"]] == ["skipped", "not done", *["skipped"] * 3]
    assert summary["exit_code"] == 143


def test_several_processes_do_not_share_standard_input(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("WORLD_SIZE", "2"), monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert main(["--input-list", "-", "-o", str(tmp_path / "out"), "--model", "any"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 processes share one standard input; give the list as a file" in line
