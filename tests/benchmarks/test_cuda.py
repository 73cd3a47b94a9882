"""The script for a GPU, on a CPU: it runs with few packages, says what failed, and ends."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import recorder
import torch

from benchmarks import cuda
from benchmarks.step import ROWS, SMALL
from networks.cpu_kernels import twice_differentiable

ROOT = Path(cuda.__file__).parents[1]
WITHOUT = ("mlflow", "SimpleITK", "nibabel", "scipy", "skimage", "matplotlib", "pandas")
PROGRAM = f"""
import sys
sys.modules |= dict.fromkeys({WITHOUT})
from benchmarks.cuda import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_it_runs_without_what_reads_registers_or_tracks_scans(tmp_path):
    table = tmp_path / "cuda.md"
    command = [sys.executable, "-c", PROGRAM, "--device", "cpu", "--smoke", "--output", str(table)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    written = table.read_text()
    assert written.strip() in done.stdout and written.endswith("all done\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.splitlines() if "|" in line]
    assert {tuple(row[:3]) for row in rows} >= {
        (row, "1", side) for row in SMALL for side in ("plain", "float32", "bf16")
    }
    assert ["resnet-32, float32: cpu against CPU", "losses 0", "0.005"] in rows
    (training,) = (row for row in rows if row[0] == "resnet-32, float32")
    assert training[1] == "30" and float(training[4]) < float(training[3])


def test_a_job_that_fails_costs_its_row_and_is_counted(tmp_path, capsys):
    def fails():
        raise RuntimeError("no kernel | found\nmore")

    record = cuda.Record(tmp_path / "table.md")
    record.section(["job", "time", "ratio"], iter([("first", fails), ("second", lambda: ["1 s"])]), 60)
    record.section(["late", "time"], iter([("third", pytest.fail)]), -1)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert record.lines[1] == "| job | time | ratio |"
    assert "| first | **FAILED**: no kernel / found |  |" in lines and "| second | 1 s |  |" in lines
    assert any(line.startswith("| third | not measured: the -1 s") for line in lines)
    assert record.failures == 1 and "RuntimeError" in capsys.readouterr().err


def test_captured_steps_are_held_against_eager_ones(monkeypatch):
    monkeypatch.setattr("pipeline.engines.cuda_graph._record_cuda_graph", recorder.record)
    with twice_differentiable():  # whose operations a recorder knows
        sides = (("cpu", False), ("cpu", True))
        assert cuda.agree("resnet-32", "float32", sides, steps=6)[0] == "losses 0"
        monkeypatch.setattr(
            "pipeline.engines.cuda_graph.CapturedStep.__call__", lambda self, a, b: self.engine.step(a, a)
        )
        with pytest.raises(cuda.CheckFailed, match="losses differ by"):
            cuda.agree("resnet-32", "float32", sides, steps=6)


def test_losses_that_are_no_numbers_fail(monkeypatch):
    monkeypatch.setattr(cuda, "_images", lambda *_: (torch.full((2, 1, 32, 32), torch.nan),) * 2)
    with pytest.raises(cuda.CheckFailed, match="losses differ by nan"):
        cuda.agree("resnet-32", "float32", (("cpu", False), ("cpu", False)))


def test_a_loss_that_does_not_fall_fails(monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_, **__: None)
    with pytest.raises(cuda.CheckFailed, match="the cycle's loss went from"):
        cuda.train(replace(cuda.SMOKE, training_steps=10), "float32", False, "cpu")


def test_the_sections_end_before_the_command_does():
    for plan in (cuda.Plan(), cuda.SMOKE):
        assert plan.checks_s + plan.steps_s + plan.training_s < cuda.LIMIT_S < 540
        assert {*plan.rows, *plan.checked, plan.trained} <= {*ROWS, *SMALL}
