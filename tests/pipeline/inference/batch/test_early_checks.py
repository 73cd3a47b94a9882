"""What is refused at once, without torch; and what a command prints of many volumes."""

import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.config.schema import Config
from pipeline.inference.batch import early_checks as early_checks_module
from pipeline.inference.batch.early_checks import require_contrast, require_device
from pipeline.inference.batch.jobs import FAILED, MAX_ROWS, SKIPPED, TRANSLATED, Job, outcome_table
from pipeline.run_config import save_config
from pipeline.runs.folder import RunFolder
from pipeline.utils.errors import UserError

ROOT = Path(pipeline.__file__).parents[1]


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    save_config(RunFolder(folder), Config(name="trial", data={"source": "phantom"}))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.pt").touch()
    return folder


@pytest.mark.parametrize("below", ["", "checkpoints", "checkpoints/best.pt"])
def test_a_contrast_that_a_run_does_not_make_is_refused_by_its_configuration(run_folder, below):
    uri = str(run_folder / below)
    require_contrast(uri, "T2")
    with pytest.raises(UserError, match="the model does not make 'T9' but T1 and T2; correct --to"):
        require_contrast(uri, "T9")
    with pytest.raises(UserError, match="the model makes T1 and T2; name the one to make"):
        require_contrast(uri, None)
    (run_folder / "config.yaml").write_text("{")  # then the checkpoint tells
    require_contrast(uri, "T9")
    require_contrast("models:/a@best", "T9")


def test_a_checkpoint_may_lie_anywhere(run_folder, monkeypatch):
    monkeypatch.chdir(run_folder / "checkpoints")
    with pytest.raises(UserError, match="does not make 'T9'"):
        require_contrast("best.pt", "T9")
    copied = run_folder / "copies" / "best.pt"  # the configuration above it is another run's
    copied.parent.mkdir()
    copied.touch()
    require_contrast(str(copied), "T9")


def test_a_device_that_cannot_be_there_is_refused(monkeypatch):
    monkeypatch.setattr(early_checks_module, "ACCELERATOR_FILES", ())
    monkeypatch.setattr(early_checks_module.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError()))
    monkeypatch.setattr(early_checks_module.sys, "platform", "linux")
    for device in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"device {device}: not available on this machine; use --device auto or c"):
            require_device(device)
    for device in ("auto", "cpu"):
        require_device(device)
    monkeypatch.setattr(early_checks_module, "ACCELERATOR_FILES", (__file__,))
    require_device("cuda")


CHECK = """
import sys
from pipeline.translate import main
code = main(sys.argv[1:])
raise SystemExit(code if not {"torch", "monai", "mlflow"} & set(sys.modules) else 99)
"""


@pytest.mark.parametrize("wrong", ["--to", "--device", "-o"])
def test_what_is_wrong_is_told_before_torch_is_there(run_folder, tmp_path, wrong):
    (tmp_path / "a.nii").write_bytes(b"never read")
    (tmp_path / "text").touch()
    words = {"-i": tmp_path / "a.nii", "-o": tmp_path / "out", "--model": run_folder, "--to": "T2", "--device": "cpu"}
    words[wrong] = {"--to": "T9", "--device": "mps", "-o": tmp_path / "text" / "out"}[wrong]
    command = [sys.executable, "-c", CHECK, *(str(word) for pair in words.items() for word in pair)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: "), done.stderr
    assert {"--to": "'T9'", "--device": "device mps", "-o": "cannot be written"}[wrong] in line


def test_a_long_batch_ends_in_its_counts_and_what_was_wrong():
    jobs = [Job(Path(f"{index}.nii"), Path("out"), TRANSLATED) for index in range(MAX_ROWS + 1)]
    assert outcome_table(jobs) == f"{MAX_ROWS + 1} translated"
    assert len(outcome_table(jobs[1:]).splitlines()) == MAX_ROWS + 3
    jobs[3] = Job(Path("3.nii"), Path("out"), FAILED, error="broken")
    jobs[4] = Job(Path("4.nii"), Path("out"), SKIPPED, warnings=["doubtful"])
    lines = outcome_table(jobs).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["3.nii", "4.nii", str(MAX_ROWS - 1)]
    assert lines[-1] == f"{MAX_ROWS - 1} translated, 1 failed, 1 skipped"
