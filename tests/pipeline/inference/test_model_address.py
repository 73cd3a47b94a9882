"""A wrong model, contrast or device is refused before anything slow is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from small_volumes import write_volume

from pipeline.config.schema import Config
from pipeline.inference import model_address
from pipeline.inference.model_address import BY_PREFERENCE, LATEST, checkpoint_at, require_usable
from pipeline.run_config import save_config
from pipeline.runs.checkpoint import CheckpointFolder
from pipeline.runs.folder import RunFolder
from pipeline.utils.errors import UserError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    save_config(RunFolder(folder), Config(name="trial", data={"source": "phantom"}))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.pt").touch()
    return folder


WRONG = {
    "--model none": "none: no such model; give",
    "--model empty": "empty: no checkpoint in this folder; give",
    "--to T9": "the model does not make 'T9' but T1 and T2; correct --to",
    "--device mps": "device mps: not available on this machine",
    "-o text/out": "cannot be written (Not a directory)",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_without_torch_and_nothing_is_made(run_folder, tmp_path, wrong):
    source = write_volume(tmp_path / "a.nii")
    (tmp_path / "empty").mkdir(), (tmp_path / "text").touch()
    option, value = wrong.split()
    options = {"-i": source, "-o": tmp_path / "out", "--model": run_folder, "--to": "T2", "--device": "cpu"}
    options[option] = value if option in ("--to", "--device") else tmp_path / value
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.translate", *words]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = answer.stderr.splitlines()
    imports = [line for line in lines if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}
    (message,) = (line for line in lines if line not in imports)
    assert answer.returncode == 2 and message.startswith("error: ") and WRONG[wrong] in message
    assert "argparse" in loaded and loaded & {"torch", "monai", "mlflow", "pydantic"} == set()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "checkpoints", "checkpoints/best.pt"])
def test_a_contrast_that_a_run_does_not_make_is_refused_by_its_configuration(run_folder, below):
    address = str(run_folder / below)
    require_usable([address], "T2", "cpu")
    for to, message in (("T9", "does not make 'T9' but T1 and T2; correct"), (None, "T1 and T2; name the one to make")):
        with pytest.raises(UserError, match=message):
            require_usable([address], to, "cpu")
    (run_folder / "config.yaml").write_text("{")  # then the checkpoint tells
    require_usable([address, "models:/a@best"], "T9", "cpu")


def test_a_checkpoint_may_lie_anywhere(run_folder, monkeypatch):
    monkeypatch.chdir(run_folder / "checkpoints")
    with pytest.raises(UserError, match="does not make 'T9'"):
        require_usable(["best.pt"], "T9", "cpu")
    copied = run_folder / "copies" / "best.pt"  # the configuration above it is another run's
    copied.parent.mkdir()
    copied.touch()
    require_usable([str(copied)], "T9", "cpu")


def test_a_device_that_cannot_be_there_is_refused(monkeypatch):
    monkeypatch.setattr(model_address, "ACCELERATOR_FILES", ())
    monkeypatch.setattr(model_address.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError()))
    monkeypatch.setattr(model_address.sys, "platform", "linux")
    for device in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"device {device}: not available on this machine; use --device auto or c"):
            require_usable([], None, device)
    for device in ("auto", "cpu"):
        require_usable([], None, device)
    monkeypatch.setattr(model_address, "ACCELERATOR_FILES", (__file__,))
    require_usable([], None, "cuda")


def test_the_names_are_those_of_the_folder_of_checkpoints(tmp_path):
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints")
    assert [folder.folder / name for name in BY_PREFERENCE] == [folder.best, folder.latest, folder.previous]
    assert folder.folder / LATEST == folder.latest
    folder.folder.mkdir(parents=True)
    for path in (folder.previous, folder.latest, folder.best):  # each is worth more than those before
        path.touch()
        assert checkpoint_at(tmp_path / "run") == checkpoint_at(folder.folder) == path
