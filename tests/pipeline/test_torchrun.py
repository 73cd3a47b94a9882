"""torchrun itself, and processes that die: `pytest -m faults`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import CONFIGS, QUICK, TINY, latest, phantom_run, workshop

from pipeline.tracking.metrics_file import read_metrics

TESTS = Path(__file__).parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
FREQUENT_CHECKPOINTS = ("training.batch_size=2", "training.checkpoint_minutes=0.00001")
pytestmark = pytest.mark.faults


def mortal(folder, times, command, *arguments):
    """Have torchrun do a command whose processes die so many times; return what it said."""
    folder.mkdir(exist_ok=True)
    words = [*TORCHRUN, f"--max-restarts={times}", TESTS / "mortal.py", folder, times, command, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "death-0").exists()  # a later life may have too little left to do to die of it
    return done


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert phantom_run(folder, *QUICK, *FREQUENT_CHECKPOINTS) == 0
    return folder


def test_torchrun_goes_on_from_the_last_checkpoint_when_processes_are_killed(alone, tmp_path):
    shared = (f"data.folder={workshop() / 'phantom'}", f"preprocess.store={workshop() / 'store'}")
    settings = (*TINY, *shared, *QUICK, *FREQUENT_CHECKPOINTS, f"output={tmp_path / 'run'}")
    done = mortal(tmp_path / "log", 2, "pipeline.run", CONFIGS / "phantom.yaml", *settings, "--quiet")
    assert (tmp_path / "log" / "death-1").exists()
    assert "after step 2" in done.stdout and "after step 4" in done.stdout  # two steps in each life
    assert latest(tmp_path / "run")["position"]["step"] == 8
    (last, *_), (expected, *_) = (
        [record for record in reversed(read_metrics(folder / "metrics.jsonl")[0]) if "train/cycle_a" in record]
        for folder in (tmp_path / "run", alone)
    )
    names = [name for name in expected if name.startswith("train/")]
    assert [last[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-3, abs=1e-3)


def test_torchrun_writes_each_translation_once_when_processes_are_killed(alone, tmp_path):
    sources = sorted((workshop() / "phantom").rglob("*_T1.nii.gz"))
    words = ("-i", *sources, "-o", tmp_path / "out", "--model", alone, "--to", "T2")
    done = mortal(tmp_path / "log", 2, "pipeline.translate", *words)
    assert "skipped" in done.stdout
    names = [source.name for source in sources]
    assert len(names) == 6 and sorted((tmp_path / "log" / "written.txt").read_text().split()) == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "summary.json"]
